import html
import re

import pytest
from markdown_it import MarkdownIt

from etude.markdown import block, code, literal

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script> </b> <!-- <?php <http://127.0.0.1:9>",
    "a `b` ``c`` ``` d",
    "`",
    "x](javascript:alert(1)) ![y](http://127.0.0.1:9/y.png) [z]: http://127.0.0.1:9 [a][b]",
    "[z]: http://127.0.0.1:9",
    "one\n\n# two\r\n- three\n```\nfour",
    "a | b || c",
    "*a* **b** _c_ __d__ ~~e~~ a_b_c 2 * 3",
    "&lt;b&gt; &#60;i&#62; &amp; & x",
    "\\ \\< \\` C:\\runs\\*",
    "# a",
    "#",
    "---",
    "-",
    "> a",
    "- a",
    "+ a",
    "1. a",
    "2) a",
    "=== a",
    "kernel=3, lr 1e-3 > lr 0.1 < 2: [0.1, 0.2], macro_f1",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_is_shown_as_it_is(text):
    line = " ".join(text.split())
    shown = html.escape(line, quote=False)
    for before, after, tags in (("", "", "p"), ("- ", "", "li"), ("# ", "", "h1"), ("**", "**", "strong")):
        found = READER.render(before + literal(text) + after)
        assert f"<{tags}>{shown}</{tags}>" in found.replace("&quot;", '"'), found
    table = READER.render(f"| a | b |\n|---|---|\n| {literal(text)} | c |").replace("&quot;", '"')
    assert f"<td>{shown}</td>\n<td>c</td>" in table
    assert READER.render(code(text)).replace("&quot;", '"') == f"<p><code>{shown}</code></p>\n"
    lines = text.replace("\r\n", "\n")
    found = READER.render(block(lines, "text")).replace("&quot;", '"')
    assert found == f'<pre><code class="language-text">{html.escape(lines, quote=False)}\n</code></pre>\n'


def test_what_is_no_markup_stays_readable():
    for text in (
        "0.002",
        "-0.5",
        "+1",
        "kernel=3 > kernel=1: as expected (interval [+0.1, +0.2], 3 seeds)",
        "macro_f1 < 0.5",
        "a-b. c!",
    ):
        assert literal(text) == text
    assert not re.search(r"\$", literal("$x$").replace("\\$", "")), "Jupyter reads mathematics between dollars"
