"""Run every benchmark in turn and rewrite benchmarks/README.md from what they printed (`make bench`)."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
HEAD = """# Benchmarks

Ours and the peer run in turn in one process on the same input; medians; a ratio over 1 means ours is better. Machines are shared and
noisy, so the ratio is the figure to quote and not the time. No test asserts a time. `make bench` rewrites this page.

"""


def names() -> list[str]:
    return sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_"))


def run(name: str, arguments: list[str]) -> tuple[str, dict[str, object]]:
    """What a benchmark printed, and its last line as an object."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    *table, last = done.stdout.strip().splitlines()
    return "\n".join(table), json.loads(last)


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = f"{lines[0]}, {len(lines)} cores" if lines else cpu
    return f"{cpu}; Python {platform.python_version()}; {datetime.now(UTC):%Y-%m-%d}"


def main() -> None:
    sections, rows = [], []
    for name in names():
        print(f"{name} …", flush=True)
        table, figure = run(name, sys.argv[1:])
        print(table)
        share = figure.get("share_of_peak")
        rows.append(
            f"| `{name}` | {figure['ours']:.4g} | {figure['peer']:.4g} | {figure['unit']} | **{figure['ratio']:.2f}** "
            f"| {f'{share:.0%}' if isinstance(share, float) else '–'} | {figure['n']} |"
        )
        sections.append(f"## {name}\n\n```text\n{table}\n```\n\nSameness: {figure['equal_output']}\n")
    head = "| benchmark | ours | peer | unit | ratio | share of peak | n |\n|---|---|---|---|---|---|---|\n"
    text = f"{HEAD}Machine: {machine()}.\n\n{head}" + "\n".join(rows) + "\n\n" + "\n".join(sections)
    if len(sys.argv) > 1:  # --quick only shows that they run
        return
    (HERE / "README.md").write_text(text)
    print(f"wrote {HERE / 'README.md'}")


if __name__ == "__main__":
    main()
