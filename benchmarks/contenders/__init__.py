"""The contenders, one a module, imported only by the process that runs it. What a module offers:

class Contender:
    def __init__(self, case: Case, members: int, dtype: str) -> None    # the initial weights of `cases.weights`
    step_members: int                                                    # models that one step trains
    def run(self, steps: int) -> tuple[int, float]
        # train on, with minibatches and noise of its own; steps done, and their seconds without any set-up
    def replay(self, index, eps) -> Weights
        # the weights of all members after len(index) steps from the initial ones, on just these inputs
    or, where a trainer draws for itself and cannot be fed:
    def trained(self, seed: int, steps: int) -> Weights                  # of one member, from the initial weights 0
"""

NAMES = {
    "ours": "this trainer",
    "eager": "this trainer, not compiled",
    "dataloader": "PyTorch loop, DataLoader",
    "slices": "PyTorch loop, slices, fused Adam",
    "jax": "JAX jit(vmap), scan",
    "pythae": "Pythae",
    "pyro": "Pyro",
    "lightning": "Lightning",
}
FED = ("ours", "eager", "dataloader", "slices", "jax", "lightning")  # those that can be fed: equal to rounding
STACKED = ("ours", "eager", "jax")  # those that train members together; the others train one after another
ON_GPU = ("ours", "eager")  # those that take a `device`
