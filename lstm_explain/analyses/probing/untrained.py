"""The control that matters most: the same network before it learned anything."""

import copy
import operator
from typing import TypeVar

import torch
from torch import nn

from lstm_explain.errors import InputError

Model = TypeVar("Model", bound=nn.Module)


def untrained(model: Model, *, seed: int = 0) -> Model:
    """A copy of a model with fresh weights, as its own layers initialise them.

    Random recurrent networks already carry much of their input in their state (Zhang & Bowman 2018), so a probe's score means nothing
    without theirs beside it. One twin is one draw of weights, and another `seed` scores a little differently: let a probe stand beside
    several, at least 5. What the model's own code did to its layers' weights before training, such as another forget bias, isn't
    repeated.

    Parameters
    ----------
    model : torch.nn.Module
        Stays as it is.
    seed : int
        Which draw. The weights aren't those that a model has when it is made after ``torch.manual_seed(seed)``, nor after any other
        seed below 2³¹: that would be the model's own beginning, which its states still resemble. The random state of everything else
        isn't touched.

    Returns
    -------
    torch.nn.Module
        On the same device, of the same dtype and in the same mode.

    Raises
    ------
    InputError
        If a module has parameters of its own and no ``reset_parameters()``, or that leaves some as they were; or `seed` isn't a whole
        number.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = torch.nn.LSTM(8, 16)
    >>> torch.equal(lx.untrained(model).weight_ih_l0, model.weight_ih_l0)
    False
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(model).__name__}")
    try:
        apart = _apart(operator.index(seed))
    except TypeError:
        raise InputError(f"needed seed as a whole number, got {seed!r}") from None
    twin = copy.deepcopy(model)
    devices = sorted({p.device.index or 0 for p in twin.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(apart)
        # What is still NaN afterwards was not drawn afresh.
        for parameter in twin.parameters():
            parameter.fill_(torch.nan)
        for name, module in twin.named_modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
            elif own := [parameter for parameter, _ in module.named_parameters(recurse=False)]:
                where = f"{name or 'the model'} ({type(module).__name__})"
                raise InputError(f"needed reset_parameters() on {where}, whose {', '.join(own)} would stay trained: make the twin yourself")
    for name, parameter in twin.named_parameters():
        if bool(parameter.isnan().any()):
            raise InputError(f"needed reset_parameters() to draw {name} afresh, which would stay trained: make the twin yourself")
    return twin


def _apart(seed: int) -> int:
    """A seed from 2³¹ to 2³², where nobody's are: one for each below 2³¹. PyTorch's generator on processors reads no more than 32 bits."""
    return 2**31 + (seed * 0x9E3779B1 + 0x7F4A7C15) % 2**31
