import importlib

import pytest

from aeent_jax.data import builders, catalog, phantoms

# Of the published protocol 250, but for Brain Tumor; fewer on the smaller sets.
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


def test_every_data_set_has_a_builder():
    assert set(builders.BUILDERS) == set(catalog.CATALOG)


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


@pytest.mark.parametrize(
    "name", [n for n in catalog.CATALOG if n != catalog.FOLDER]
)
def test_every_data_set_has_a_configuration(name):
    module = importlib.import_module(f"configs.{name}")
    plain, controlled = module.get_config("plain"), module.get_config()
    for config in (plain, controlled):
        assert config.data.name == name
        assert config.data.channels == catalog.get_entry(name).channels
        assert (config.data.image_size, config.train.batch_size) == (64, 64)
        assert config.train.epochs == _EPOCHS.get(name, 250)
    assert plain.entropy.estimator == "none"
    assert controlled.entropy.estimator == "coding_rate"
    with pytest.raises(ValueError, match="must be controlled or plain"):
        module.get_config("plian")
