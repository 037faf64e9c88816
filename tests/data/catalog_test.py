import pytest

from aeent_jax import config
from aeent_jax.data import catalog, phantoms
from configs import benchmark

# The published protocol has 250, 600 on Brain Tumor; smaller sets have fewer.
_EPOCHS = {
    "brain_tumor": 600,
    "brain_mri": 200,
    "kermany_cxr": 100,
    "phantom_cxr": 100,
    "phantom_mri": 100,
}


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match="'rsnna'; choose one of phantom_cxr,"):
        catalog.get_entry("rsnna")


@pytest.mark.parametrize("name", list(phantoms.PHANTOMS))
def test_counts_of_phantoms_are_those_that_are_drawn(name):
    counts = phantoms.PHANTOMS[name].counts
    train, test_normal, test_abnormal = catalog.get_entry(name).counts
    assert counts["train"] == (train, 0)
    assert counts["test"] == (test_normal, test_abnormal)


def test_all_phantoms_are_in_the_catalog():
    generated = {
        name
        for name, entry in catalog.CATALOG.items()
        if entry.source == catalog.GENERATED
    }
    assert generated == set(phantoms.PHANTOMS)


def test_table_names_every_data_set_with_its_terms():
    table = catalog.format_table()
    for name, entry in catalog.CATALOG.items():
        assert f"\n{name} " in table
        assert entry.terms in table
        assert entry.obtain in table


@pytest.mark.parametrize("name", catalog.CATALOG)
def test_every_data_set_has_a_preset(name):
    plain, controlled = (
        benchmark.get_config(f"{name}{variant}") for variant in (",plain", "")
    )
    for found in (plain, controlled):
        assert found.data.name == name
        assert found.data.channels == catalog.get_entry(name).channels
        assert (found.data.image_size, found.train.batch_size) == (64, 64)
        assert found.train.epochs == _EPOCHS.get(name, 250)
    assert plain.entropy.estimator == "none"
    assert controlled.entropy.estimator == "coding_rate"
    with pytest.raises(ValueError, match="must be controlled or plain"):
        benchmark.get_config(f"{name},plian")


def test_presets_are_of_the_data_sets_of_the_catalog():
    assert set(config.EPOCHS) == set(catalog.CATALOG)
