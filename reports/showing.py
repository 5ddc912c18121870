"""The report's sections of pictures: masks over training, parts, reconstructions."""

from collections.abc import Sequence
from html import escape

from reports.comparison import percent
from reports.gallery import SNAPSHOT_HEADS, Strip
from reports.mask_statistics import POINTS
from reports.material import Material
from reports.page import Cell, Section, chart, chip, details, group, paragraph, strips, table
from reports.pictures import part_colour, png
from reports.results import words

# Part measures in the table, in this order; the first two are drawn. Whole-set figures lead: inside of one image the
# position of a patch alone scores high.
PART_MEASURES = {
    "nmi_foreground": "NMI",
    "nmi_foreground_per_image": "per image",
    "ari_foreground": "ARI",
    "dead_parts": "dead parts",
    "miou": "mIoU",
    "foreground_iou": "foreground IoU",
    "nmi": "NMI with background",
    "ari": "ARI with background",
    "usage_entropy": "usage entropy",
    "position_information": "NMI with position",
    "colour_information": "NMI with colour",
}


def masks(material: Material) -> Section:
    """What each arm hides, and how that changes."""
    html = paragraph(
        "SemMAE hides a share of every part at first and whole parts at the end. The standard deviation over parts of "
        f"the hidden ratio shows it. It is measured on the learned parts of {material.spread_images:,} training "
        "images for every arm alike, under masks drawn as its pretraining draws them."
    )
    body = [
        [Cell(f"{100 * point:.0f} %", point), *(Cell(f"{found[place]:.3f}") for found in material.spreads.values())]
        for place, point in enumerate(POINTS)
    ]
    ends = [f"{words(arm)} from {values[0]:.2f} to {values[-1]:.2f}" for arm, values in material.spreads.items()]
    told = f"Standard deviation over parts of the hidden ratio, over training: {', '.join(ends)}."
    columns = ["training done", *(words(arm) for arm in material.spreads)]
    caption = "0 where every part is hidden alike, at most 0.5 where each is wholly hidden or wholly visible."
    html += group(
        [
            chart(material.charts["hidden_ratio"], alt=told, caption=told),
            table(columns, body, caption=caption, style="dense"),
        ],
        style="charts",
    )
    blocks = []
    for arm, rows in material.masks.items():
        unlabelled = [row._replace(label="") for row in rows]
        blocks.append(strips(_encoded(unlabelled), heads=material.moment_labels(arm), title=words(arm)))
    html += group(blocks, style="side")
    moments = ", ".join(f"{100 * moment:.0f}" for moment in material.moments)
    html += paragraph(
        f"The same images at {moments} % of training (α where the arm has a schedule). Grey is hidden.", style="note"
    )
    return Section("masks", "Masks over training", "Masks", html)


def parts(material: Material) -> Section:
    """The learned parts, and how they agree with true ones where the data has them."""
    html = paragraph(
        f"{material.num_parts} parts, learned without labels from the attention of a self-supervised teacher. A colour "
        f"is the same part in every image. {_teacher(material)}"
    )
    html += f'<ul class="parts">{"".join(_usage(material))}</ul>\n'
    html += strips(
        _encoded(material.pictures["parts"]),
        caption="Colours of true and of raw parts are their own: they do not match those of the learned ones.",
    )
    html += "<h3>One part at a time</h3>\n" + strips(_encoded(material.pictures["single_parts"]))
    html += _from_heads_to_parts(material)
    if material.part_measures:
        html += "<h3>Part quality</h3>\n" + _part_quality(material)
    return Section("parts", "Semantic parts", "Parts", html)


def _from_heads_to_parts(material: Material) -> str:
    html = "<h3>From attention heads to parts</h3>\n" + group(
        [
            strips(
                _encoded(material.pictures["heads"]),
                caption="Attention of the class token in the teacher's last block, a row a head; each picture is relative "
                "to its strongest patch. Heads are not matched with parts.",
            ),
            strips(
                _encoded(material.pictures["part_maps"]),
                caption="Share of every learned part in a patch, in the part's colour: dim is none, full colour is all.",
            ),
        ],
        style="side",
    )
    if "rebuilt" in material.pictures:
        html += "<h3>Rebuilt from parts</h3>\n" + strips(
            _encoded(material.pictures["rebuilt"]),
            caption="What the part learner's decoder makes of the part maps and one class token; it has no other input. "
            "It is there to train the parts, not to draw well.",
        )
    return html


def _teacher(material: Material) -> str:
    found = {name: material.results.teacher.get(f"knn_accuracy{name}") for name in ("", "_untrained", "_pixels")}
    if any(value is None for value in found.values()):
        return ""
    own, untrained, pixels = (percent(value) for value in found.values())
    return (
        f"The teacher's kNN accuracy is {own} %, that of an untrained network {untrained} %, that of raw pixels "
        f"{pixels} %."
    )


def _part_quality(material: Material) -> str:
    told = ", ".join(
        f"{words(name)} {found['nmi_foreground']:.2f}"
        for name, found in material.part_measures.items()
        if "nmi_foreground" in found
    )
    pieces = [
        chart(
            material.charts["part_quality"],
            alt=f"Foreground NMI over the test set: {told}.",
            caption="Normalised mutual information with the true parts, foreground patches: over the whole test set, "
            "and as a mean over images.",
        ),
        _measures(
            material,
            list(PART_MEASURES)[:4],
            "Agreement with the data's part labels, foreground patches; part learning never saw them.",
        ),
    ]
    return group(pieces, style="charts") + details(
        "All measures",
        _measures(
            material,
            list(PART_MEASURES),
            "Clusters of patch positions (xy) are the baseline to beat; within one image position alone scores high, "
            "so figures over the whole set lead.",
        ),
    )


def _measures(material: Material, names: Sequence[str], caption: str) -> str:
    shown = [name for name in names if _is_measured(material, name)]
    body = [
        [Cell(escape(words(method))), *(_number_cell(found.get(name), name) for name in shown)]
        for method, found in material.part_measures.items()
    ]
    methods = list(material.part_measures)
    lead = methods.index("learned") if "learned" in methods else None
    return table(["parts from", *(PART_MEASURES[name] for name in shown)], body, caption=caption, lead=lead)


def _is_measured(material: Material, name: str) -> bool:
    return any(name in found for found in material.part_measures.values())


def _usage(material: Material) -> list[str]:
    items = []
    for part, (patches, images) in enumerate(material.usage):
        is_part = part < material.num_parts
        name = f"part {part}" if is_part else "background"
        colour = "rgb({} {} {})".format(*part_colour(part)) if is_part else "#80858e"
        items.append(
            f"<li>{chip(colour)}{name}: {100 * patches:.0f} % of patches, in {100 * images:.0f} % of images</li>"
        )
    return items


def reconstructions(material: Material) -> Section:
    """What each arm predicts for the same hidden patches."""
    seed = material.results.seeds[0]
    html = paragraph(
        f"The same images under the same masks for every arm, seed {seed}. Visible patches are pasted in; hidden ones "
        "are predicted, with the mean and variance of the true patch where the loss is taken on normalised patches."
    )
    html += "<h3>Random masks</h3>\n" + strips(_encoded(material.pictures["reconstructions"]))
    html += "<h3>Whole parts hidden</h3>\n" + strips(_encoded(material.pictures["reconstructions_parts"]))
    html += "<h3>Over training</h3>\n" + paragraph("Training images under random masks, by the share of training done.")
    for arm, rows in material.snapshots.items():
        html += details(words(arm), strips(_encoded(rows), heads=SNAPSHOT_HEADS))
    return Section("reconstructions", "Reconstructions", "Reconstructions", html)


def _number_cell(value: float | None, name: str) -> Cell:
    if value is None:
        return Cell("–", "")
    return Cell(f"{value:.0f}" if name == "dead_parts" else f"{value:.3f}", value)


def _encoded(rows: Sequence[Strip]) -> list[tuple[str, bytes, str]]:
    return [(row.label, png(row.pixels), row.alt) for row in rows]
