"""Microsoft Presidio as a recogniser (`presidio-analyzer`): patterns and, where one of spaCy's models is installed, names and places.

Nothing is fetched: a model that is not there is done without, and the list of public suffixes is the one that came with `tldextract`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...schema import MissingExtraError
from .notes import Span

KINDS = {
    "PERSON": "NAME", "EMAIL_ADDRESS": "EMAIL", "PHONE_NUMBER": "PHONE", "DATE_TIME": "DATE", "URL": "URL", "IP_ADDRESS": "IP",
    "LOCATION": "PLACE", "ORGANIZATION": "PLACE",
}  # fmt: skip
"""Presidio's entity → ours; all others are numbers of somebody: `ID`."""
_NOBODY = frozenset({"NRP", "AGE"})
"""Nationality, religion, politics; ages, whose high ones the rules take: neither is of HIPAA's eighteen."""
_LARGEST = ("trf", "lg", "md", "sm")


@dataclass(frozen=True, slots=True)
class Presidio:
    """A recogniser (`notes.Recogniser`).

    Args:
        engine: Presidio's `AnalyzerEngine`.
        language: of the texts, as ISO 639-1.
        model: spaCy's model that finds names and places; nothing where there is none, and only patterns are found.
        least: the score from which a finding counts.
    """

    engine: Any
    language: str
    model: str
    least: float

    @property
    def warning(self) -> str:
        """What has to be known of its findings."""
        return (
            ""
            if self.model
            else "Presidio without a model of spaCy: it finds numbers and addresses by their form, and no names"
        )

    def __call__(self, text: str, /) -> Iterable[Span]:
        """What Presidio finds; of dates only those of a date's form, for a model takes `daily` and `two weeks` for some."""
        for found in self.engine.analyze(text, language=self.language, score_threshold=self.least):
            by_model = (found.recognition_metadata or {}).get("recognizer_name") == "SpacyRecognizer"
            if found.entity_type not in _NOBODY and not (by_model and found.entity_type == "DATE_TIME"):
                yield Span(found.start, found.end, KINDS.get(found.entity_type, "ID"))


def presidio(language: str = "en", least: float = 0.35) -> Presidio:
    """Presidio with the largest of spaCy's models of a language that is installed here, or without any.

    Args:
        language: of the texts, as ISO 639-1.
        least: the score from which a finding counts; Presidio's lone patterns for bank accounts and licences score less.
    Raises:
        MissingExtraError: Presidio is not installed.
    """
    try:
        import spacy
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.predefined_recognizers import EmailRecognizer
    except ImportError as error:
        raise MissingExtraError("presidio-analyzer", "presidio") from error
    name = _best([m for m in spacy.util.get_installed_models() if m.startswith(f"{language}_")])
    pipeline = spacy.load(name) if name else _plain(language)
    engine = AnalyzerEngine(nlp_engine=_engine(language, pipeline), supported_languages=[language])
    if any(isinstance(r, EmailRecognizer) for r in engine.registry.recognizers):
        engine.registry.remove_recognizer("EmailRecognizer")
        engine.registry.add_recognizer(_emails(language))
    return Presidio(engine, language, name, least)


def _best(models: Sequence[str]) -> str:
    return min(models, key=lambda m: [m.endswith(size) for size in _LARGEST][::-1], default="")


def _plain(language: str) -> Any:
    """Words and nothing more; a word is its own lemma, by which Presidio knows a pattern's context (`phone`, `iban`)."""
    import spacy
    from spacy.language import Language

    if not Language.has_factory("polyclinic_own_lemma"):

        @Language.component("polyclinic_own_lemma")
        def own_lemma(words: Any) -> Any:
            for word in words:
                word.lemma_ = word.lower_
            return words

    pipeline = spacy.blank(language)
    pipeline.add_pipe("polyclinic_own_lemma")
    return pipeline


def _engine(language: str, pipeline: Any) -> Any:
    """Presidio's engine around a pipeline that is loaded already: its own would download what it lacks."""
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    engine = SpacyNlpEngine(models=[{"lang_code": language, "model_name": pipeline.meta["name"]}])
    engine.nlp = {language: pipeline}
    return engine


def _emails(language: str) -> Any:
    """Presidio's recogniser of e-mail addresses, which asks the network for the list of public suffixes, without that."""
    from presidio_analyzer.predefined_recognizers import EmailRecognizer
    from tldextract import TLDExtract

    known = TLDExtract(cache_dir=None, suffix_list_urls=())

    class Emails(EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return known(pattern_text).fqdn != ""

    return Emails(supported_language=language, name="EmailRecognizer")
