"""Names, and the options that a class declares for its name."""

import inspect
from typing import Annotated

import pytest
import torch

from optimizers import Alice, Muon, registry
from optimizers.engine import Option, register
from optimizers.engine.options import LearningRate, Params, StateBits


def test_a_subclass_has_the_options_of_its_own_constructor():
    @register("own_constructor", strength=2.0)
    class OwnConstructor(Muon):
        """A method made of another one."""

        def __init__(
            self, params: Params, lr: LearningRate = 0.5, *, strength: Annotated[float, Option("of it", above=0)] = 1.0
        ):
            super().__init__(params, lr=lr)

    assert set(registry.options("own_constructor")) == {"strength", "state_bits"}
    assert registry.options("own_constructor")["strength"].default == 2.0
    assert list(inspect.signature(OwnConstructor).parameters) == ["params", "lr", "strength", "state_bits"]
    assert "strength: of it" in inspect.getdoc(OwnConstructor)
    with pytest.raises(ValueError, match="strength must be"):
        registry.check("own_constructor", strength=0.0)


def test_an_option_that_is_not_declared_is_named():
    class Bare(Muon):
        def __init__(self, params: Params, lr: LearningRate = 0.5, *, floor=1e-3):
            super().__init__(params, lr=lr)

    class Any(Muon):
        def __init__(self, params: Params, **options):
            super().__init__(params, **options)

    weights = [torch.nn.Parameter(torch.ones(4, 6))]
    with pytest.raises(TypeError, match=r"^the option floor must be Annotated\[type, Option\(meaning"):
        Bare(weights)
    with pytest.raises(TypeError, match=r"^Any must name its options in its constructor, where options takes any"):
        Any(weights)


def test_a_subclass_without_a_constructor_has_its_bases_options():
    register("no_constructor")(type("NoConstructor", (Muon,), {"__doc__": "Muon."}))
    assert registry.options("no_constructor") == registry.options("muon")


def test_what_cannot_be_registered_is_refused():
    with pytest.raises(ValueError, match="'muon' is taken by Muon"):
        register("muon")(Muon)
    with pytest.raises(ValueError, match="SGD is no MatrixOptimizer or BaseOptimizer"):
        register("sgd")(torch.optim.SGD)
    with pytest.raises(ValueError, match=r"Muon has no option \['rank'\]"):
        register("other", rank=3)(Muon)
    with pytest.raises(ValueError, match=r"^Muon, a default: momentum must be a finite number .*, got 1\.5$"):
        register("other", momentum=1.5)(Muon)
    with pytest.raises(ValueError, match=r"^Alice, a default: leading must not exceed rank 128, got 200$"):
        register("other", leading=200)(Alice)
    for name in ("of/mine", "mine-2", "", 3):
        with pytest.raises(ValueError, match=r"^an optimizer's name is made of letters, digits and underscores, got "):
            register(name)(Muon)
    assert not {"other", "of/mine", "mine-2"} & set(registry.names())


def test_a_constructor_has_lr_and_leaves_out_what_every_method_has():
    class Rateless(Muon):
        def __init__(self, params: Params):
            super().__init__(params)

    class Bits(Muon):
        def __init__(self, params: Params, lr: LearningRate = 0.5, *, state_bits: StateBits = 32):
            super().__init__(params, lr=lr)

    class Text(Muon):
        def __init__(self, params: Params, lr: LearningRate = 0.5, *, floor: Annotated[float, Option("of it")] = "x"):
            super().__init__(params, lr=lr)

    with pytest.raises(ValueError, match=r"^Rateless must have the option lr"):
        register("rateless")(Rateless)
    with pytest.raises(TypeError, match=r"^Bits: state_bits is an option of every method, leave it out"):
        register("bits")(Bits)
    with pytest.raises(ValueError, match=r"^Text, a default: floor must be a finite number, got 'x'"):
        register("text")(Text)


@pytest.mark.parametrize("name", ["adam_lr", "label", "embeddings", "base", "t"])
def test_an_option_whose_name_means_something_else_is_refused(name):
    """Settings and groups would give it their own value."""

    scope = dict(globals())
    declared = f"{name}: Annotated[float, Option('of it')] = 1.0"
    body = f"    'Muon.'\n    def __init__(self, params: Params, lr: LearningRate = 0.5, *, {declared}): ...\n"
    exec(f"class Named(Muon):\n{body}", scope)
    with pytest.raises(ValueError, match=f"the option {name} needs another name"):
        register("named")(scope["Named"])
