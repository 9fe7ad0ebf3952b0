"""Pages of the site that are made from what lies outside ``docs/``.

Notebooks become tutorials; CONTRIBUTING and CHANGELOG become pages; the reference of commands,
configurations, public names and models is written from the code itself. Links of the repository
are rewritten to these pages.
"""

import argparse
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

import rscd
from rscd.cli import build_parser
from rscd.inference.about import ABOUT, About
from rscd.inference.detectors.registry import DEEP_DETECTORS, DETECTORS
from rscd.inference.shipped import SHIPPED, shipped_card
from rscd.training.configurations import about, configurations

ROOT = Path(__file__).parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository that are pages, by where they stand on the site."""
NOT_ON_SITE = ("README.md", "SECURITY.md", "CITATION.cff", "CODE_OF_CONDUCT.md", "configs/")
LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        name = notebook.relative_to(ROOT).as_posix()
        files.append(File(name, os.fspath(ROOT), config.site_dir, config.use_directory_urls))
    made = {page: (ROOT / source).read_text("utf-8") for source, page in PAGES.items()}
    made["reference/commands.md"] = "\n".join(commands())
    made["reference/configurations.md"] = "\n".join(configuration_files())
    made["reference/api.md"] = "\n".join(public_names())
    for name, known in ABOUT.items():
        made[f"reference/models/{name}.md"] = "\n".join(model_card(name, known))
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Let links of the repository point to the pages of the site."""
    where = page.file.src_uri
    source = {site: name for name, site in PAGES.items()}.get(where, f"docs/{where}")

    def moved(found: re.Match[str]) -> str:
        text, link, anchor = found.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        if target.startswith(NOT_ON_SITE):
            return text
        goal = page_of(target)
        if goal is None:
            return found[0]
        return f"[{text}]({posixpath.relpath(goal, posixpath.dirname(where) or '.')}{anchor or ''})"

    return LINK.sub(moved, markdown)


def on_page_content(html: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Let links of notebooks, which are not Markdown by now, point to pages of the site."""
    if not page.file.src_uri.startswith("notebooks/"):
        return html
    html = re.sub(r'href="\.\./docs/([\w/-]+)\.md', r'href="../../\1/', html)
    return re.sub(r'href="([\w-]+)\.ipynb', r'href="../\1/', html)


def on_post_build(config: MkDocsConfig) -> None:
    """Stop at links that lead nowhere, those of notebooks and docstrings included."""
    site = Path(config.site_dir)
    broken = [
        f"{page.relative_to(site)}: {link}"
        for page in sorted(site.rglob("*.html"))
        if page.name != "404.html"  # its links are absolute
        for link in re.findall(r'(?:href|src)="([^"#?:]+)(?:[#?][^":]*)?"', page.read_text("utf-8"))
        if not (page.parent / link).resolve().exists()
    ]
    if broken:
        raise PluginError("expected links that lead somewhere, found " + "; ".join(broken))


def page_of(path: str) -> str | None:
    """Where a file of the repository stands on the site; None if it does not."""
    folders = {"notebooks": "notebooks/01_quickstart.ipynb", "docs/adr": "architecture.md"}
    if path in PAGES or path in folders:
        return (PAGES | folders)[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("notebooks/"):
        return path
    return None


def commands() -> Iterator[str]:
    """Every command's help, all options included."""
    yield "# Commands\n"
    yield "What `--help-all` prints, of every command.\n"
    for name, parser in subcommands(build_parser()):
        yield f"## rscd {name}\n\n```text\n{whole_help(parser)}\n```\n"


def subcommands(parser: argparse.ArgumentParser, before: str = "") -> Iterator[tuple[str, Any]]:
    """Commands and their actions, in order."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                inner = list(subcommands(one, f"{before}{name} "))
                yield from inner or [(f"{before}{name}", one)]


def whole_help(parser: Any) -> str:
    """The help with every option."""
    return str(parser.format_help_all()).rstrip()


def configuration_files() -> Iterator[str]:
    """Every configuration that comes with the package."""
    yield "# Configurations\n"
    yield "`rscd train -c NAME` runs one, `rscd config copy NAME` writes it to a file.\n"
    for name, path in configurations().items():
        yield f"## {name}\n\n{about(path)}.\n\n```yaml\n{path.read_text('utf-8').rstrip()}\n```\n"


def public_names() -> Iterator[str]:
    """The names of ``rscd``, documented where they are defined."""
    yield "# Python API\n"
    for name in rscd.__all__:
        yield f"::: {getattr(rscd, name).__module__}.{name}\n"


def model_card(name: str, known: About) -> Iterator[str]:
    """The card of a model: what it is, for what, learnt from what, how good, how not."""
    shipped = shipped_card() if name == SHIPPED else {}
    plain = {key: make().summary for key, make in DETECTORS.items()} | DEEP_DETECTORS
    yield f"# {name}\n"
    yield f"`rscd predict t1.tif t2.tif -m {name} -o change.gpkg`: {summary_of(name, plain)}.\n"
    yield f"## Intended use\n\n{capital(known.use)}.\n"
    yield "## Limits\n"
    yield from (f"- {capital(limit)}." for limit in known.limits)
    yield f"\n## Data\n\n{capital(shipped.get('data') or known.data)}.\n"
    yield from (f"- {capital(one)}" for one in shipped.get("attribution", ()))
    yield f"\n## Measured\n\n`{known.command}`\n"
    if shipped:
        yield "Pixels, pooled over the pairs of a folder, at the threshold of the weights:\n"
        yield "| folder | pairs | F1 | IoU | precision | recall |\n|---|---|---|---|---|---|"
        for folder, figures in shipped["measured"].items():
            shown = (f"{figures[key]:.3f}" for key in ("f1", "iou", "precision", "recall"))
            yield f"| {folder} | {figures['pairs']} | {' | '.join(shown)} |"
        yield "\nMore, and how it was trained: [the network that ships](../../default_model.md).\n"
    else:
        yield "| on | figures |\n|---|---|"
        yield from (f"| {where} | {figures} |" for where, figures in known.measured.items())
        yield "\nAll sets: [results](../../results.md#training-free-detectors-on-real-pairs).\n"
    yield f"## Source and licence\n\n{capital(source_of(known))}.\n"
    yield f"Licence: {shipped.get('licence') or known.licence}."
    if shipped:
        keys = ("network", "bands", "gsd_m", "gsd_range_m", "threshold", "min_score", "min_area_m2")
        yield "\n## In the file\n\n| field | value |\n|---|---|"
        yield from (f"| `{key}` | {shipped[key]} |" for key in (*keys, "halo", "sha256"))


def summary_of(name: str, plain: Mapping[str, str]) -> str:
    """One line of a model."""
    return plain[name] if name in plain else str(shipped_card()["summary"])


def source_of(known: About) -> str:
    """The publication, or a link to the page."""
    page = known.source.removeprefix("docs/")
    return f"[{page.removesuffix('.md')}](../../{page})" if page.endswith(".md") else known.source


def capital(text: str) -> str:
    """A text that begins a sentence; names of packages and flags stay as they are."""
    return text[:1].upper() + text[1:]
