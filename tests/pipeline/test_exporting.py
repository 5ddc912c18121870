import contextlib
import json

import pytest
import timm
import torch
from safetensors.torch import load_file

from config.params import load_params
from config.presets import read_document, write_params
from models.mae import MaskedAutoencoder, split_mask
from pipeline.exporting import export, trained_ratio
from pipeline.model_card import card
from reports.comparison import NO_ACCURACY
from shards.files import write_json
from tests.conftest import ROOT, run_stage
from tests.jobs.cluster.conftest import write
from training.encoders import load_encoder, load_weights


@pytest.fixture(scope="module")
def exported(world, tmp_path_factory):
    """A folder with one export a layout, and the fine-tuned one."""
    folder, params = tmp_path_factory.mktemp("exported"), load_params(world / "params.yaml")
    for layout in ("timm", "hf", "mae"):
        export("semmae-0", layout, folder / layout, params, root=world)
    export("mae-1", "timm", folder / "classifier", params, root=world, finetuned=True)
    return folder


def images_of(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_export__timm_loads_the_encoder_and_sees_the_same(world, exported):
    vit = timm.create_model(f"local-dir:{exported / 'timm'}", pretrained=True).eval()
    vit.load_state_dict(load_file(exported / "timm" / "model.safetensors"), strict=True)
    with torch.no_grad():
        own = load_encoder(world / "pretrained" / "semmae-0").encode(images_of())
        torch.testing.assert_close(vit.forward_features(images_of()), own, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(vit(images_of()), own[:, 1:].mean(dim=1), atol=1e-5, rtol=1e-5)


def test_export__timm_loads_the_classifier_and_gives_the_same_scores(world, exported):
    from models.classifier import Classifier

    state, config = load_weights(world / "finetuned" / "mae-1")
    own = Classifier(**config)
    own.load_state_dict(state)
    vit = timm.create_model(f"local-dir:{exported / 'classifier'}", pretrained=True)
    with torch.no_grad():
        torch.testing.assert_close(vit.eval()(images_of()), own.eval()(images_of()), atol=1e-5, rtol=1e-5)


def test_export__transformers_loads_all_keys_and_has_the_same_loss(world, exported):
    from transformers import ViTMAEForPreTraining

    theirs, info = ViTMAEForPreTraining.from_pretrained(exported / "hf", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state, config = load_weights(world / "pretrained" / "semmae-0")
    own = MaskedAutoencoder(**config)
    own.load_state_dict(state)
    noise = torch.rand(2, own.num_patches, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = theirs.eval()(images_of(), noise=noise)
        mask = output.mask.bool()
        loss, predictions = own.eval()(images_of(), mask)
    torch.testing.assert_close(output.loss, loss, atol=1e-5, rtol=1e-4)
    hidden = split_mask(mask)[1][:, :, None].expand_as(predictions)
    torch.testing.assert_close(output.logits.gather(1, hidden), predictions, atol=1e-4, rtol=1e-4)


def test_trained_ratio__is_that_of_the_training_and_not_what_params_say_now(tmp_path):
    params = load_params(ROOT / "params.yaml")
    lock = {"stages": {"pretrain@mae-0": {"params": {"params.yaml": {"pretrain": {"mask_ratio": 0.6}}}}}}
    (tmp_path / "dvc.lock").write_text(json.dumps(lock))
    assert trained_ratio("mae-0", params, tmp_path) == 0.6
    assert trained_ratio("mae-1", params, tmp_path) == params.pretrain.mask_ratio


def test_export__mae_is_the_run_bit_for_bit(world, exported):
    state, config = load_weights(world / "pretrained" / "semmae-0")
    found = load_file(exported / "mae" / "model.safetensors")
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    assert json.loads((exported / "mae" / "config.json").read_text()) == config


def test_export__the_card_names_data_origin_and_metrics(world, exported):
    card = (exported / "timm" / "README.md").read_text()
    assert json.loads((world / "data" / "shards" / "manifest.json").read_text())["data_digest"] in card
    assert json.loads((world / "teacher" / "config.json").read_text())["digest"] in card
    accuracy = json.loads((world / "metrics" / "probe" / "semmae-0.json").read_text())["linear_accuracy"]
    assert f"| probe: linear_accuracy | {accuracy:.4f} |" in card
    assert "teacher" not in (exported / "classifier" / "README.md").read_text(), "mae knows of no teacher"
    assert NO_ACCURACY not in card


def test_card__images_that_nothing_judges_have_no_accuracy(copied_world):
    params = load_params(copied_world / "params.yaml")
    unlabelled = params.model_copy(update={"data": params.data.model_copy(update={"labels": []})})
    facts = {"test_images": 9, "rankme": 4.5}
    for metrics, is_judged in ((facts, False), ({**facts, "dense_miou": 0.3, "dense_floor": 0.2}, True)):
        write_json(copied_world / "metrics/probe/semmae-0.json", metrics)
        text = card("semmae-0", "mae", unlabelled, copied_world)
        assert (NO_ACCURACY in text) != is_judged and ("dense_miou |" in text) == is_judged
        assert "accuracy |" not in text and "| pretrain: val_loss |" in text


@pytest.mark.parametrize(
    ("job", "layout", "options", "message"),
    [
        (
            "semmae-9",
            "timm",
            {},
            "semmae-9: no such run; did you mean semmae-1.; there are mae-0, mae-1, raw_attention-0",
        ),
        ("semmae-0", "onnx", {}, "format onnx: expected one of timm, hf, mae"),
        ("semmae-0", "hf", {"finetuned": True}, "format hf: has no classifier"),
    ],
)
def test_export__a_mistake_is_one_line(world, tmp_path, job, layout, options, message):
    with pytest.raises(ValueError, match=message):
        export(job, layout, tmp_path / "out", load_params(world / "params.yaml"), root=world, **options)
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        export("mae-0", "mae", tmp_path / "taken", load_params(world / "params.yaml"), root=world)


def test_cross_decoder__is_trained_probed_and_exported_as_an_encoder_alone(copied_world, tmp_path):
    document = read_document(copied_world / "params.yaml")
    document["pretrain"].update(decoder="cross", predicted=0.5, epochs=2)
    write_params(document, copied_world / "params.yaml")
    run_stage(copied_world, "stages.pretrain", ["mae", "0"])
    run_stage(copied_world, "stages.probe", ["mae", "0"])
    params = load_params(copied_world / "params.yaml")
    export("mae-0", "timm", tmp_path / "timm", params, root=copied_world)
    for layout in ("hf", "mae"):
        with pytest.raises(ValueError, match=f"format {layout}: knows no cross-attention decoder; .*--format timm"):
            export("mae-0", layout, tmp_path / layout, params, root=copied_world)


def test_import__no_epoch_takes_the_exported_weights_as_they_are(copied_world, exported):
    from pipeline import cli

    with contextlib.chdir(copied_world):
        cli.start(exported / "mae" / "model.safetensors")
    write(copied_world, batch_size=8, epochs=0)
    run_stage(copied_world, "stages.pretrain", ["mae", "0"])
    assert (copied_world / "pretrained" / "mae-0" / "model.safetensors").read_bytes() == (
        copied_world / "pretrained" / "semmae-0" / "model.safetensors"
    ).read_bytes()
    run_stage(copied_world, "stages.probe", ["mae", "0"])
    own, theirs = (
        json.loads((copied_world / "metrics" / "probe" / f"{job}.json").read_text()) for job in ("mae-0", "semmae-0")
    )
    assert own == theirs


def test_import__another_file_than_the_pinned_one_is_refused(copied_world, exported, tmp_path):
    from pipeline import cli

    file = tmp_path / "weights.safetensors"
    file.write_bytes((exported / "mae" / "model.safetensors").read_bytes())
    with contextlib.chdir(copied_world):
        cli.start(file)
    file.write_bytes((copied_world / "pretrained" / "mae-1" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"pretrain.start .*its sha256 is"):
        run_stage(copied_world, "stages.pretrain", ["mae", "0"])
