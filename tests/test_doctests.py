"""The examples in docstrings run and say what they say."""

import doctest
import importlib
import pkgutil

import pytest

import measured
import vae

MODULES = [
    module.name
    for package in (vae, measured)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]
FINDER = doctest.DocTestFinder(exclude_empty=True)
EXAMPLES = {
    test.name: test for name in MODULES for test in FINDER.find(importlib.import_module(name), name) if test.examples
}


@pytest.mark.parametrize("test", EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_runs(test):
    lines: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=lines.append)
    assert not lines, "".join(lines)


def test_the_functions_that_are_used_most_have_an_example():
    used = """
        exact.linear_gaussian.linear_vae exact.linear_gaussian.collapse_threshold exact.linear_gaussian.posterior
        exact.linear_gaussian.log_evidence exact.shannon.gaussian_rate_distortion exact.shannon.blahut_arimoto
        exact.factor_analysis.fit.fit models.vae.VAE models.networks.MLPEncoder models.ensemble.stack
        models.pruning.pruned train.trainer.train train.objectives.terms diagnostics.information.mutual_information
        inference.local.fit_local inference.evidence.importance_log_evidence inference.evidence.ais_log_evidence
        noise.generator data.images.load
    """
    assert {f"vae.{name}" for name in used.split()} - EXAMPLES.keys() == set()
