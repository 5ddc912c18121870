"""Pages of `dvc plots` that need no network: the scripts that draw them come from a package, not from a server."""

from pathlib import Path

from shards.files import write_text

# Below the root. Not below .dvc/tmp, which people delete: DVC refuses to draw without its template.
TEMPLATE = Path(".semmae") / "plots.html"
# The version of DVC's own templates.
VEGA_LITE = "5.21"
# What the plots call.
EXPORT = "window.vegaEmbed = vegaEmbed;"
# DVC puts its plots in place of the word in braces. The scripts are a function's, whose names are no names of the page.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Plots</title>
<style>body > div {{ display: inline-block; margin: 1em; vertical-align: top; }}</style>
<script>(() => {{
{scripts}
}})();</script>
</head>
<body>
{{plot_divs}}
</body>
</html>
"""


def prepare(root: Path = Path()) -> None:
    """Make `dvc plots` of the repository at `root` write pages that need no network, from now on.

    Raises ValueError if the package that has the scripts is not installed.
    """
    from dvc.repo import Repo

    if not (root / TEMPLATE).is_file():
        try:
            from vl_convert import javascript_bundle
        except ImportError:
            raise ValueError("plots: vl-convert-python is not installed; run `pip install vl-convert-python`") from None
        write_text(root / TEMPLATE, PAGE.format(scripts=javascript_bundle(EXPORT, VEGA_LITE)))
    with Repo(str(root)) as repo, repo.config.edit("local") as config:
        # From the folder .dvc.
        config["plots"]["html_template"] = f"../{TEMPLATE}"
