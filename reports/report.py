"""The report: what was measured and drawn, put into words, tables and pictures."""

import math
from html import escape

from reports.comparison import sentences
from reports.material import Material
from reports.page import Cell, Section, arm_cell, chart, chip, details, facts, group, page, paragraph, table
from reports.results import words
from reports.scores import scores
from reports.showing import masks, parts, reconstructions


def render(material: Material) -> str:
    """The page as HTML."""
    shown = [scores(material), masks(material), parts(material), reconstructions(material)]
    trained = [arm for arm in material.others if material.arms[arm]["mask"] != "none"]
    others = ", ".join(map(words, trained)) or "nothing else"
    floors = [words(arm) for arm in material.others if arm not in trained]
    lead = f"Masked autoencoders that differ in their masks alone: {others} against {words(material.baseline)}."
    return page(
        title="Semantic-guided masking, compared",
        lead=lead + (f" For comparison {', '.join(floors)}: an encoder without pretraining." if floors else ""),
        verdict=[*sentences(material.rows), *_warnings(material)],
        facts=_facts(material),
        sections=[*shown, _learning(material), _setup(material)],
        foot=_foot(),
    )


def _warnings(material: Material) -> list[str]:
    """What the data does not allow to see."""
    if material.classes == 1:
        return ["The images are of one class: every classifier is right, and the accuracies say nothing."]
    if material.untested:
        return [f"No test image is of class {', '.join(material.untested)}: nothing is measured on it."]
    return []


def _facts(material: Material) -> str:
    results, data = material.results, material.results.data
    counts = [f"{int(data[name]):,}" for name in ("train_images", "val_images", "test_images")]
    return facts(
        [
            ("arms", str(len(results.arms))),
            ("seeds", f"{len(results.seeds)} <small>paired</small>"),
            ("images", f"{counts[0]} <small>train</small>"),
            ("held out", f"{counts[1]} <small>val</small> {counts[2]} <small>test</small>"),
            ("classes", f"{material.classes} <small>largest {100 * material.chance:.0f} % of test</small>"),
            ("data", f"<code>{material.digest[:12]}</code>"),
        ]
    )


def _learning(material: Material) -> Section:
    html = paragraph(
        "The pretraining losses of different masks are not comparable: to predict whole parts is the harder task. A "
        "higher loss is no worse encoder."
    )
    ends = ", ".join(f"{words(arm)} {loss:.3f}" for arm, loss in _final_losses(material).items())
    html += group(
        [
            chart(
                material.charts["pretraining_loss"],
                alt=f"Pretraining loss over steps; at the end {ends}.",
                caption=f"Pretraining. At the end: {ends}.",
            ),
            chart(
                material.charts["finetuning_loss"],
                alt="Fine-tuning loss on the training images over steps, by arm.",
                caption="Fine-tuning, training images. These are comparable.",
            ),
        ],
        style="charts",
    )
    told = {
        "teacher_losses": "The teacher: losses of self-distillation on class token and on patches.",
        "part_losses": "Part learning: every loss before it is weighted.",
    }
    html += group(
        [
            chart(material.charts[name], alt=f"{caption} Over steps.", caption=caption)
            for name, caption in told.items()
            if name in material.charts
        ],
        style="charts",
    )
    for name, numbers in (("The teacher", material.results.teacher), ("Part learning", material.results.refine)):
        body = [[Cell(escape(words(key))), Cell(f"{value:.4g}", value)] for key, value in numbers.items()]
        html += details(f"{name}: all numbers", table(["measure", "value"], body, caption=name))
    return Section("learning", "Learning curves", "Learning", html)


def _final_losses(material: Material) -> dict[str, float]:
    """Mean over seeds of the loss of the last interval, for the arms that have one."""
    found = {
        arm: [material.results.pretrain[arm, seed].get("loss", math.nan) for seed in material.results.seeds]
        for arm in material.results.arms
    }
    return {arm: sum(losses) / len(losses) for arm, losses in found.items() if all(map(math.isfinite, losses))}


def _setup(material: Material) -> Section:
    fields = list(next(iter(material.arms.values())))
    body = [
        [arm_cell(arm, material.colours[arm]), *(Cell(escape(str(found[name])), style="text") for name in fields)]
        for arm, found in material.arms.items()
    ]
    html = table(["arm", *fields], body, caption="An arm is one way to mask; nothing else differs between arms.")
    html += paragraph(
        f"Reconstructions and pictures of masks come from seed {material.results.seeds[0]}.", style="note"
    )
    html += details("The run behind every figure", _sources(material))
    return Section("setup", "The arms", "Arms", html)


def _sources(material: Material) -> str:
    sources = material.results.sources
    stages = list(next(iter(sources.values())))
    body = [
        [
            Cell(f"{chip(material.colours[arm])}{escape(f'{arm}-{seed}')}", f"{arm}-{seed}"),
            *(Cell(f"<code>{found[stage][:12]}</code>", style="text") for stage in stages),
        ]
        for (arm, seed), found in sources.items()
    ]
    caption = (
        "MD5 of the metrics that each stage left for a job, as in dvc.lock; `stage@job` names its run in MLflow. Figures of "
        "an arm are means over its jobs."
    )
    return table(["job", *stages], body, caption=caption, style="dense")


def _foot() -> str:
    links = ", ".join(
        f'<a href="{name}">{name}</a>' for name in ("comparison.csv", "metrics.json", "curves.csv", "figures/")
    )
    return (
        f'<p>The same numbers and pictures: {links}; what it cost: <a href="costs.html">costs.html</a>. Method: Li et '
        "al., SemMAE: Semantic-Guided Masking for Learning Masked Autoencoders, NeurIPS 2022.</p>"
    )
