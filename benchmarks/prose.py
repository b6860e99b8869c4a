"""Puts the results of a study, and what its README concludes from them, where they can be handed in.

    python benchmarks/prose.py PACKAGE STUDY FOLDER [--results FILE.csv --command COMMAND]

FOLDER/STUDY.csv is a copy of packages/PACKAGE/results/STUDY.csv. FOLDER/STUDY.md begins with the command that made it,
as the README shows it, and has the prose of its section: what stands below what `nox -s tables` makes. With --results
and --command, which made that file, it says that the README has no results of this study.
"""

import argparse
import re
import shutil
from pathlib import Path

PACKAGES = Path(__file__).parents[1] / "packages"


def prose(readme: str, study: str) -> str:
    """What stands between what was made of a study and the next heading. Raises ValueError without the study."""
    found = re.search(
        rf"^<!-- made: study {study} -->\n.*?^<!-- end -->\n(.*?)(?=^#|\Z)", readme, re.DOTALL | re.MULTILINE
    )
    if not found:
        raise ValueError(f"the README does not show the study {study}")
    return found[1].strip()


def command(readme: str, package: str, study: str) -> str:
    """`PACKAGE study NAME FLAGS` of the README's chapter on its studies, with the name of this one."""
    found = re.search(rf"`({package} study )NAME([^`]*)`", readme)
    return f"{found[1]}{study}{found[2]}" if found else f"{package} study {study}"


def main() -> None:
    takes = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    takes.add_argument("package")
    takes.add_argument("study")
    takes.add_argument("folder", type=Path)
    takes.add_argument("--results", type=Path)
    takes.add_argument("--command")
    given = takes.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    readme = (PACKAGES / given.package / "README.md").read_text("utf-8")
    made, said = (
        given.command,
        "*Made for this hand-in: the README has no results of this study, so that nobody has concluded anything.*",
    )
    if not given.results:
        made, said = command(readme, given.package, given.study), prose(readme, given.study)
    shutil.copy(
        given.results or PACKAGES / given.package / "results" / f"{given.study}.csv",
        given.folder / f"{given.study}.csv",
    )
    (given.folder / f"{given.study}.md").write_text(f"```bash\n{made}\n```\n\n{said}\n", "utf-8", newline="\n")


if __name__ == "__main__":
    main()
