import csv
import functools
import json

import fault_support
import jax
import numpy as np
import pytest
import training_support
from sklearn import metrics as sklearn_metrics

from aeent_jax import config as config_lib
from aeent_jax import data, entropy, figures
from aeent_jax.data import dataset as dataset_lib
from aeent_jax.evaluation import evaluate
from aeent_jax.results import evaluations
from aeent_jax.runtime import parallel

SIGMA = 0.5


def make_split(count, seed, num_abnormal=0, masked=False):
    images = training_support.make_images(count, seed)
    labels = (np.arange(count) >= count - num_abnormal).astype(np.int32)
    masks = np.zeros(images.shape[:3], bool)
    masks[labels == 1, 3:6, 3:7] = True
    images[masks] = 255
    ids = tuple(f"{seed}/{i:02d}" for i in range(count))
    return data.Split(images, labels, masks if masked else None, ids)


def make_dataset(**splits):
    return dataset_lib.make_dataset("folder", splits)


BOX = "smoothed_box5"
DATASET = make_dataset(
    train=make_split(14, seed=0),
    test=make_split(11, seed=1, num_abnormal=5, masked=True),
)


def make_config(**overrides):
    config = config_lib.default()
    config.channel.sigma = SIGMA
    config.model.latent_dim = training_support.LATENT_DIM
    config.eval.batch_size = 4
    config.eval.num_resamples = 50
    config.update_from_flattened_dict(overrides)
    return config


@functools.cache
def variables():
    network = training_support.make_network()
    return jax.device_get(jax.jit(network.init)(jax.random.key(0)))


def make_evaluator(mapping, config):
    return evaluate.Evaluator(
        mapping,
        training_support.make_method(),
        config,
    )


@functools.cache
def evaluator(num_devices=2):
    mapping = parallel.make_parallel(num_devices)
    return make_evaluator(mapping, make_config()), mapping


def run(dataset, directory=None, num_devices=2):
    made, mapping = evaluator(num_devices)
    placed = mapping.replicate(variables())
    return made.evaluate(placed, dataset, 42, directory)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with `eval/test` and what was returned."""
    folder = tmp_path_factory.mktemp("run")
    return folder, run(DATASET, folder)


def scored():
    made, mapping = evaluator()
    placed = mapping.replicate(variables())
    return made.score(placed, DATASET.splits["test"].images)


def test_metrics_are_scikit_learns():
    results, split = run(DATASET), DATASET.splits["test"]
    found, rounding = scored(), {"rtol": 1e-12}  # the same sums in float64
    for names, values, truth in (
        (("auroc", "ap"), found.anomaly_scores, split.labels),
        (("pixel_auroc", "pixel_ap"), found.score_maps, split.masks),
    ):
        values, truth = values.ravel(), truth.ravel()
        np.testing.assert_allclose(
            [results[name] for name in names],
            [
                sklearn_metrics.roc_auc_score(truth, values),
                sklearn_metrics.average_precision_score(truth, values),
            ],
            **rounding,
        )
    precision, recall, _ = sklearn_metrics.precision_recall_curve(
        split.masks.ravel(), found.score_maps.ravel()
    )
    with np.errstate(invalid="ignore"):
        dice = 2 * precision * recall / (precision + recall)
    np.testing.assert_allclose(
        results["oracle_dice"], np.nanmax(dice), **rounding
    )


def test_scores_are_written_in_order_and_in_full(written):
    folder, _ = written
    with (folder / "eval/test/scores.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    split = DATASET.splits["test"]
    assert rows[0] == ["id", "label", "anomaly_score"]
    assert [row[0] for row in rows[1:]] == list(split.ids)
    assert [int(row[1]) for row in rows[1:]] == split.labels.tolist()
    assert [float(row[2]) for row in rows[1:]] == (
        scored().anomaly_scores.tolist()
    )


def test_score_maps_are_written_with_masks_and_ids(written):
    folder, _ = written
    split = DATASET.splits["test"]
    with np.load(folder / "eval/test/score_maps.npz") as arrays:
        assert sorted(arrays) == ["ids", "masks", "score_maps"]
        np.testing.assert_array_equal(arrays["score_maps"], scored().score_maps)
        np.testing.assert_array_equal(arrays["masks"], split.masks)
        assert arrays["ids"].tolist() == list(split.ids)


def test_metrics_file_holds_what_is_returned(written):
    folder, results = written
    files = sorted(p.name for p in (folder / "eval/test").iterdir())
    assert files == [
        "metrics.json",
        "panel.npz",
        "panel.png",
        "score_maps.npz",
        "scores.csv",
    ]
    found = json.loads((folder / "eval/test/metrics.json").read_text())
    assert found == json.loads(json.dumps(results))
    assert sorted(found) == [
        "anomaly_score_of_normals",
        "ap",
        "ap_interval",
        "auroc",
        "auroc_interval",
        "baselines",
        "diagnostics",
        "has_score_map",
        "images_per_second",
        "images_sha256",
        "num_abnormal",
        "num_images",
        "num_normal",
        "oracle_dice",
        "oracle_dice_interval",
        "oracle_dice_threshold",
        "pixel_ap",
        "pixel_ap_interval",
        "pixel_auroc",
        "pixel_auroc_interval",
        "rate_nats",
        "reconstruction_error",
        "score",
        "split",
        "step",
    ]
    assert (found["split"], found["step"]) == ("test", 42)
    counts = [found[f"num_{kind}"] for kind in ("images", "normal", "abnormal")]
    assert counts == [11, 6, 5]
    assert found["images_sha256"] == DATASET.image_fingerprint_of("test")
    for name in ("auroc", "ap", "pixel_ap", "pixel_auroc", "oracle_dice"):
        low, high = found[f"{name}_interval"]
        assert 0 <= low <= high <= 1


def test_metrics_are_written_last_so_that_they_stand_for_the_rest(
    tmp_path, monkeypatch
):
    folder = tmp_path / "eval/test"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("of the evaluation before")

    def stop(directory, **arrays):
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "save_panel", stop)
    with pytest.raises(KeyboardInterrupt):
        run(DATASET, tmp_path)
    assert (folder / "scores.csv").exists()
    assert not (folder / "metrics.json").exists()


@pytest.mark.parametrize("room", [16, 512])  # bytes a file
def test_a_full_disk_is_told_in_a_sentence(tmp_path, room):
    with (
        fault_support.largest_write(room),
        pytest.raises(OSError, match=r".") as caught,
    ):
        run(DATASET, tmp_path)
    assert str(caught.value) == (
        f"The evaluation cannot be written to {tmp_path / 'eval/test'} (File"
        " too large); make room or give access, then start the same command"
        " again, which trains nothing anew."
    )
    assert not (tmp_path / "eval/test/metrics.json").exists()


def test_baselines_are_measured_beside_the_network(written):
    _, results = written
    table = results["baselines"]
    assert sorted(table) == [
        "mean_image",
        "mean_intensity",
        "nearest_image",
        "pca",
        "shortcut",
    ]
    for row in table.values():
        assert {"auroc", "auroc_interval"} <= set(row)
    assert table["shortcut"]["statistic"] in table["shortcut"]["tried"]
    assert table["pca"]["num_components"] == training_support.LATENT_DIM


def test_normals_scores_are_summarised_for_thresholds():
    normals = scored().anomaly_scores[:6]
    assert run(DATASET)["anomaly_score_of_normals"] == {
        "mean": normals.mean(),
        "sd": normals.std(),
        "median": np.median(normals),
    }


def test_rate_and_errors_are_of_each_kind_of_image():
    made, mapping = evaluator()
    train = DATASET.splits["train"].images
    trained = made.score(mapping.replicate(variables()), train)
    errors = scored().reconstruction_error.astype(np.float64)
    results = run(DATASET)
    # Both are computed by the same code on the same numbers.
    assert results["rate_nats"] == float(
        entropy.coding_rate(trained.z, sigma=SIGMA).value
    )
    np.testing.assert_allclose(
        [
            results["reconstruction_error"][kind]
            for kind in ("train_normal", "test_normal", "test_abnormal")
        ],
        [
            trained.reconstruction_error.mean(dtype=np.float64),
            errors[:6].mean(),
            errors[6:].mean(),
        ],
        rtol=1e-12,  # the same sums in float64
    )


def test_diagnostics_are_of_as_many_latents_of_each_kind():
    diagnostics = run(DATASET)["diagnostics"]
    assert {k: d["num_latents"] for k, d in diagnostics.items()} == {
        "train_normal": 5,
        "test_normal": 5,
        "test_abnormal": 5,
    }
    for found in diagnostics.values():
        assert sorted(found) == [
            "coding_rate",
            "effective_rank",
            "num_latents",
            "rate_low",
            "rate_up",
            "rho",
            "saturation",
            "variance",
        ]
        assert len(found["variance"]) == training_support.LATENT_DIM


def numbers_of(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def test_any_number_of_devices_finds_the_same():
    one, eight = (numbers_of(run(DATASET, num_devices=n)) for n in (1, 8))
    assert one.keys() == eight.keys()
    for name, value in one.items():
        if isinstance(value, str) or "images_per_second" in name:
            continue
        # Float32 in another order; no score is so near another that it
        # changes its rank.
        np.testing.assert_allclose(
            eight[name], value, rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_in_training_nothing_is_written_and_no_interval_computed():
    results = run(DATASET)
    assert "baselines" not in results
    assert not any(name.endswith("_interval") for name in results)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_normals_alone_have_scores_and_a_rate_but_no_rank_metrics(
    tmp_path, name
):
    splits = {"train": make_split(9, seed=3), name: make_split(7, seed=4)}
    results = run(make_dataset(**splits), tmp_path)
    assert results["split"] == name
    assert not {"auroc", "ap", "pixel_ap", "baselines"} & set(results)
    assert results["rate_nats"] > 0
    wanted = {"train_normal"} | ({f"{name}_normal"} - {"train_normal"})
    assert set(results["reconstruction_error"]) == wanted
    assert set(results["diagnostics"]) == wanted
    assert len((tmp_path / f"eval/{name}/scores.csv").read_text().split()) == 8
    assert (tmp_path / f"eval/{name}/panel.png").stat().st_size > 0
    text = evaluations.describe(results)
    assert "no rank metrics: they need normal and abnormal images" in text


def test_held_out_normals_are_measured_for_rules_that_choose():
    val = make_split(7, seed=4)
    dataset = make_dataset(**DATASET.splits, val=val)
    found, whole = run(dataset)["held_out"], run(DATASET)
    assert "held_out" not in whole
    made, mapping = evaluator()
    placed = mapping.replicate(variables())
    assert found["num_images"] == 7
    errors = made.score(placed, val.images).reconstruction_error
    assert found["reconstruction_error"] == pytest.approx(errors.mean())
    smooth = make_evaluator(mapping, make_config(**{"eval.score": BOX}))
    for name, split in (("train", DATASET.splits["train"]), ("val", val)):
        expected = smooth.score(placed, split.images).anomaly_scores.mean()
        assert found["smoothed_error"][name] == pytest.approx(expected)
    height, width = val.images.shape[1:3]
    assert found["num_values"] == height * width / 25
    # The rest is as without them.
    assert run(dataset)["rate_nats"] == whole["rate_nats"]


def test_abnormal_images_alone_have_scores_but_no_summary_of_normals(tmp_path):
    test = make_split(3, seed=5, num_abnormal=3)
    results = run(
        make_dataset(train=make_split(9, seed=3), test=test), tmp_path
    )
    assert results["num_normal"] == 0
    assert "anomaly_score_of_normals" not in results
    assert "auroc" not in results


def test_masks_that_are_empty_or_absent_leave_pixel_metrics_out():
    for masked in (False, True):
        test = make_split(6, seed=5, num_abnormal=2, masked=masked)
        if masked:
            test.masks[:] = False
        found = run(make_dataset(train=make_split(9, seed=3), test=test))
        assert "auroc" in found
        assert not any(name.startswith("pixel") for name in found)


def test_one_training_image_is_enough():
    results = run(make_dataset(train=make_split(1, seed=3)))
    # One image tells nothing; null would be an infinite rate.
    assert results["rate_nats"] == 0.0
    assert results["diagnostics"]["train_normal"]["num_latents"] == 1


def test_rate_without_a_channel_is_null():
    _, mapping = evaluator()
    made = make_evaluator(mapping, make_config(**{"channel.sigma": 0.0}))
    results = made.evaluate(mapping.replicate(variables()), DATASET, 1)
    assert results["rate_nats"] is None
    assert sorted(results["diagnostics"]["test_normal"]) == [
        "num_latents",
        "variance",
    ]
    assert evaluate.flat_metrics(results)["eval/rate_nats"] is None
    assert "infinite (no channel)" in evaluations.describe(results)


def test_flat_metrics_are_numbers_under_flat_keys():
    results = run(DATASET)
    flat = evaluate.flat_metrics(results)
    assert flat["eval/test/auroc"] == results["auroc"]
    assert flat["eval/rate_nats"] == results["rate_nats"]
    kinds = ("train_normal", "test_normal", "test_abnormal")
    for kind in kinds:
        key = f"eval/{kind}/reconstruction_error"
        assert flat[key] == results["reconstruction_error"][kind]
    of_kinds = {
        f"eval/{kind}/{name}"
        for kind in kinds
        for name in (
            "coding_rate",
            "effective_rank",
            "num_latents",
            "rate_low",
            "rate_up",
            "reconstruction_error",
            "rho",
            "saturation",
        )
    }
    of_split = {
        f"eval/test/{name}"
        for name in (
            "ap",
            "auroc",
            "images_per_second",
            "oracle_dice",
            "pixel_ap",
            "pixel_auroc",
        )
    }
    assert set(flat) == of_kinds | of_split | {"eval/rate_nats"}
    assert all(isinstance(value, int | float) for value in flat.values())


def test_description_is_in_percent(written):
    _, results = written
    lines = evaluations.describe(results | {"auroc": 0.7414}).splitlines()
    assert lines[0] == "test: 6 normal and 5 abnormal images, step 42"
    assert lines[1].startswith("  auroc         74.1 %  (")
    assert f"rate         {results['rate_nats']:.2f} nats" in "\n".join(lines)
