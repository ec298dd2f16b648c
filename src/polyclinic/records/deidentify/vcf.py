"""VCF: samples get new names; of the header stays what defines the fields, of a line what is a number or a word of the format.

Command lines, file names, dates, samples' and pedigrees' lines go. Of INFO and FORMAT, values of declared types Integer, Float and Flag
stay where they are such, of strings those of the standard's own keys and the callers' annotations (`ANN`, `CSQ`).

Variants themselves single a person out; no tool of de-identification changes that.

Source: VCF 4.3, 1.4 (header), 1.6 (lines).
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from ..source import Lines, RecordError, open_text
from . import samples
from .cleaning import Cleaning
from .known import Known

_FIELD = re.compile(r"##(INFO|FORMAT|FILTER|ALT)=<(.*)>\s*$")
_PART = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^,]*)')
_BUILD = re.compile(r"(?:GRCh|hg|NCBI|CHM13|hs|b)[\w.]{0,12}", re.IGNORECASE)
_WORDS = frozenset(
    {
        "ANN", "CSQ", "LOF", "NMD", "AA", "CIGAR", "SVTYPE", "MATEID", "EVENT", "PARID", "CLNSIG", "CLNREVSTAT", "CLNDN",
        "GENEINFO", "VARIANT_CLASS", "SYMBOL", "CSQT", "EFF", "TYPE", "VT", "culprit",
    }
)  # fmt: skip
"""Keys of INFO whose words are the format's or an annotator's."""
_GENOTYPE = {
    "GT": r"[\d./|]+", "FT": r"[A-Za-z0-9._;]{1,40}", "PGT": r"[\d./|]+", "PID": r"[\w.>*]{1,80}", "SB": r"[\d,.]+",
}  # fmt: skip
_VALUES = re.compile(
    r"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.|nan|inf)(?:,[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.|nan|inf))*", re.I
)
_ID = re.compile(r"(?:rs\d+|COS[MV]\d+|ss\d+|\.)(?:;(?:rs\d+|COS[MV]\d+|ss\d+))*")
_ALLELE = re.compile(
    r"[ACGTNacgtnRYKMSWBDHVryksmwbdhv*.,]+|<[A-Z0-9:]{1,20}>(?:,<[A-Z0-9:]{1,20}>)*|[ACGTN]?[\[\]][\w.:]{1,60}[\[\]][ACGTN]?"
)
_CHROMOSOME = re.compile(
    r"(?:chr)?[A-Za-z0-9]{1,5}|[A-Za-z0-9]{1,5}_[\w.]{1,40}|[A-Z]{2}_?\d{5,9}(?:\.\d{1,3})?|HLA-[\w*:]{1,30}|<\w{1,20}>"
)


def _columns(path: Path) -> list[str]:
    with open_text(path) as stream:
        lines = Lines(stream)
        for line in lines:
            lines.fed = 0
            if line.startswith("#CHROM"):
                return line.rstrip("\r\n").split("\t")
            if not line.startswith("##"):
                break
    raise RecordError("a VCF without its header line", "#CHROM and its columns", "export it again")


def survey(path: Path, place: str, known: Known) -> str | None:
    """Note whose samples there are; a file without any is its name's."""
    names = _columns(path)[9:]
    samples.note(names, known)
    return "" if names else None


class _Header:
    """What of the header stays: types of the keys that may, and the lines anew."""

    def __init__(self, cleaning: Cleaning) -> None:
        self.cleaning = cleaning
        self.types: dict[tuple[str, str], str] = {}

    def line(self, line: str) -> str | None:
        """A header's line anew; None where it goes."""
        if line.startswith("##fileformat=VCFv4") and re.fullmatch(r"##fileformat=VCFv4\.\d", line.strip()):
            return line.strip()
        if found := re.match(r"##contig=<(.*)>", line):
            said = dict(_PART.findall(found[1]))
            kept = [
                f"{k}={said[k]}"
                for k, fits in (("ID", _CHROMOSOME), ("length", re.compile(r"\d+")), ("assembly", _BUILD))
                if fits.fullmatch(said.get(k, ""))
            ]
            return f"##contig=<{','.join(kept)}>" if kept and kept[0].startswith("ID=") else None
        if found := re.match(r"##(reference|assembly)=.*?\b((?:GRCh|hg|NCBI)\d{2})", line, re.IGNORECASE):
            return f"##{found[1]}={found[2]}"
        return self._field(line)

    def _field(self, line: str) -> str | None:
        found = _FIELD.match(line)
        said = dict(_PART.findall(found[2])) if found else {}
        name = said.get("ID", "")
        if not found or not re.fullmatch(r"[A-Za-z_][\w.:*-]{0,40}", name) or self.cleaning.says_who(name):
            return None
        kind = said.get("Type", "")
        if found[1] in ("INFO", "FORMAT"):
            if not self._stays(found[1], name, kind):
                return None
            self.types[found[1], name] = kind
        told = said.get("Description", '""').strip('"')
        # The parts of VEP's and SnpEff's annotations are named in their descriptions.
        told = (
            told
            if name in ("ANN", "CSQ", "EFF", "LOF", "NMD") and not self.cleaning.says_who(told)
            else self.cleaning.words(told, "header")
        )
        kept = [
            f"ID={name}",
            *(f"{k}={said[k]}" for k in ("Number", "Type") if re.fullmatch(r"[\w.]{1,12}", said.get(k, ""))),
        ]
        return f'##{found[1]}=<{",".join(kept)},Description="{told}">'

    def _stays(self, where: str, name: str, kind: str) -> bool:
        return kind in ("Integer", "Float", "Flag") or name in (_WORDS if where == "INFO" else _GENOTYPE)

    def info(self, cell: str) -> str:
        """INFO anew."""
        kept = []
        for part in cell.split(";"):
            name, said, value = part.partition("=")
            kind = self.types.get(("INFO", name))
            if kind is None:
                continue
            if (
                (not said and kind == "Flag")
                or (said and kind in ("Integer", "Float") and _VALUES.fullmatch(value))
                or (
                    said
                    and kind not in ("Integer", "Float", "Flag")
                    and not self.cleaning.says_who(value.replace("|", " ").replace("_", " "))
                )
            ):
                kept.append(part)
        return ";".join(kept) or "."

    def genotype(self, keys: list[str], cell: str) -> str:
        """A sample's cell anew, of the keys that stay."""
        values = [*cell.split(":"), *["."] * len(keys)]
        return ":".join(
            v if self._fits(k, v) else "."
            for k, v in zip(keys, values, strict=False)
            if ("FORMAT", k) in self.types or k == "GT"
        )

    def _fits(self, key: str, value: str) -> bool:
        if key in _GENOTYPE:
            return bool(re.fullmatch(_GENOTYPE[key], value))
        return bool(_VALUES.fullmatch(value))


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the calls anew.

    Raises:
        RecordError: it is no VCF 4, or a line is none of it.
    """
    names = _columns(path)[9:]
    header, new = _Header(cleaning), samples.renamed_all(names, cleaning)
    with open_text(path) as stream, to.open("wb") as raw:
        file = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) if to.name.lower().endswith("gz") else raw
        lines = Lines(stream)
        gone = 0
        for line in lines:
            lines.fed = 0
            if line.startswith("##"):
                written = header.line(line)
                gone += written is None
            elif line.startswith("#CHROM"):
                written = "\t".join([*line.rstrip("\r\n").split("\t")[: 9 if names else 8], *new])
            else:
                written = _line(line.rstrip("\r\n").split("\t"), len(names), header) if line.strip() else None
            if written is not None:
                file.write((written + "\n").encode())
        if file is not raw:
            file.close()
    cleaning.did(f"{gone} lines of the header", "X")
    cleaning.did(f"{len(names)} samples", "D: pseudonym")


def _line(cells: list[str], count: int, header: _Header) -> str:
    """A variant's line anew.

    Raises:
        RecordError: it is none.
    """
    if len(cells) < (9 + count if count else 8) or not _CHROMOSOME.fullmatch(cells[0]) or not cells[1].isdecimal():
        raise RecordError(
            "a line that is no variant's", "CHROM, POS and as many columns as the header", "export it again"
        )
    if not _ALLELE.fullmatch(cells[3]) or not _ALLELE.fullmatch(cells[4]):
        raise RecordError("alleles that are none", "bases", "export it again")
    fixed = [
        *cells[:2], cells[2] if _ID.fullmatch(cells[2]) else ".", *cells[3:5], cells[5] if _VALUES.fullmatch(cells[5]) else ".",
        cells[6] if re.fullmatch(r"[\w.;-]{1,100}", cells[6]) and not header.cleaning.says_who(cells[6]) else ".", header.info(cells[7]),
    ]  # fmt: skip
    if not count:
        return "\t".join(fixed)
    keys = cells[8].split(":")
    kept = [k for k in keys if ("FORMAT", k) in header.types or k == "GT"]
    return "\t".join([*fixed, ":".join(kept) or "GT", *(header.genotype(keys, c) or "." for c in cells[9 : 9 + count])])
