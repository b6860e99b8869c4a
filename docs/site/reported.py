"""A page for each study whose results are committed: the report that is made of the file, with the README's prose."""

import re
from dataclasses import replace

import pages
import prose
from gallery import Shown

from etude.markdown import code, literal
from etude.report import page as report

WHERE = "Study {} of [{}](site:../../etudes/{}.html#study-{}-{}), whose page says which data and model."


def reported(site: pages.Site, shown: Shown, page: str) -> str:
    """The page as Markdown; its headings are the report's. Raises BrokenLink, ValueError."""
    name, study = shown.package.name, shown.name
    file = f"packages/{name}/README.md"
    readme = (site.root / file).read_text("utf-8")
    found = replace(shown.found, command=prose.command(readme, name, study))
    again = f"{name} report packages/{name}/results/{study}.csv --out {name}-{study}"
    html = report.render(shown.package, [found], again).partition("</h1>")[2].rpartition("</section>")[0]
    beginning, *rest = re.split("<h2>(.*?)</h2>", html)
    parts = [f"# {literal(found.title)}", WHERE.format(code(study), name, name, name, study), raw(beginning)]
    for heading, body in zip(rest[::2], rest[1::2], strict=True):
        if heading == "Results":  # where the report has what a person concluded
            parts += ["## Conclusions", pages.put(site, file, prose.prose(readme, study), page)]
        parts += [f"## {heading}", raw(body)]
    return "\n\n".join(parts) + "\n"


def raw(html: str) -> str:
    return f'````{{raw}} html\n<div class="report">\n{html.strip()}\n</div>\n````'
