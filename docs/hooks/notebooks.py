"""Notebooks of docs/ as pages of the site: what is written, the code, and what it gave when it was last run.

They stay notebooks for who opens them from the repository. A page has the notebook's own name, so that links between
pages lead to both.
"""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ENDING = ".ipynb"


def page(text: str) -> str:
    """A notebook as Markdown."""
    parts: list[str] = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source.strip():
            parts.append(f"```python\n{source}\n```")
            parts += [shown(output, cell["metadata"].get("alt", "")) for output in cell["outputs"]]
    return "\n\n".join(filter(None, parts)) + "\n"


def shown(output: dict[str, Any], alt: str) -> str:
    """What a cell gave: a picture, a table or text. ValueError where it failed."""
    if output["output_type"] == "error":
        raise ValueError(f"a notebook was kept with an error: {output['ename']}: {output['evalue']}")
    if output["output_type"] == "stream":
        return block("".join(output["text"]))
    data = {kind: "".join(value) for kind, value in output["data"].items()}
    if "image/png" in data:
        address = f"data:image/png;base64,{''.join(data['image/png'].split())}"
        return f'<p><img alt="{html.escape(alt)}" src="{address}"></p>'
    if "text/html" in data:
        without_style = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)
        return re.sub(r"\n\s*", "\n", without_style).strip()  # an empty line would end it
    return block(data["text/plain"])


def block(text: str) -> str:
    """Text as it is."""
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put a page in the place of each notebook."""
    from mkdocs.structure.files import File

    class Notebook(File):
        def is_documentation_page(self) -> bool:
            return True

    for file in [file for file in files if file.src_uri.endswith(ENDING)]:
        made = Notebook(file.src_uri, None, config.site_dir, config.use_directory_urls, inclusion=file.inclusion)
        made.content_string = page(file.content_string)
        files.remove(file)
        files.append(made)
    return files
