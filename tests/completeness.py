"""How far attributions of trained LSTMs are from adding up, ours and other tools', and what each costs.

Ten small networks of `torch.nn.LSTM` learn the adding problem (Hochreiter & Schmidhuber 1997): of a series of values, two are marked, and
their sum is asked for. Each tool is called as its users call it, on all test sequences at once, with zeros as the baseline where it takes
one; the gap is computed here, from the sums of what it returned and the network's own outputs. A method that hands out the whole output is
measured by that, with what it says went elsewhere; so that rows compare, every gap is a share of the difference between output and
baseline's output. The largest gaps are on sequences where the two are nearly the same. Milliseconds are for one sequence of a batch, of one
thread's own time.
"""

import statistics
import time
import warnings
from importlib import import_module

import numpy as np
import torch
from torch import nn

import lstm_explain as lx

STEPS, UNITS, TESTED = 20, 16, 32


class Adder(nn.Module):
    """Reads the answer from the last hidden state: ``(batch, time, 2)`` to ``(batch, 1)``."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, UNITS, batch_first=True), nn.Linear(UNITS, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def problems(count, generator):
    """Values from 0 to 1 beside their markers ``(batch, time, 2)``, and the sums of the two that are marked ``(batch, 1)``."""
    values, marks = torch.rand(count, STEPS, generator=generator), torch.zeros(count, STEPS)
    for half in (slice(0, STEPS // 2), slice(STEPS // 2, STEPS)):
        places = torch.randint(half.start, half.stop, (count, 1), generator=generator)
        marks.scatter_(1, places, 1.0)
    return torch.stack([values, marks], 2), (values * marks).sum(1, keepdim=True)


def trained(seed, updates=1500):
    """A network and test sequences that it hasn't seen, with its squared error on them."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Adder()
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=updates)
    for _ in range(updates):
        x, wanted = problems(64, generator)
        optimizer.zero_grad()
        (model(x) - wanted).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    x, wanted = problems(TESTED, generator)
    with torch.no_grad():
        return model.eval(), x, float((model(x) - wanted).square().mean())


def ours(**question):
    def sums(model, x):
        result = lx.attribute(model, x, target=0, **question)
        return result.attributions.reshape(len(x), -1).sum(1) + sum((result.elsewhere or {}).values())

    return sums


def captums(name, **options):
    def sums(model, x):
        given = {"baselines": torch.zeros_like(x)} if name == "GradientShap" else {}
        return getattr(import_module("captum.attr"), name)(model).attribute(x.clone(), target=0, **given, **options)

    return sums


def shaps(name, **options):
    def sums(model, x):
        return getattr(import_module("shap"), name)(model, torch.zeros_like(x[:1])).shap_values(x.clone(), **options)

    return sums


def kernel_shap(model, x):
    def flat(rows):
        with torch.no_grad():
            return model(torch.as_tensor(rows, dtype=x.dtype).reshape(len(rows), *x.shape[1:]))[:, 0].numpy()

    explainer = import_module("shap").KernelExplainer(flat, np.zeros((1, x[0].numel())))
    return explainer.shap_values(x.flatten(1).numpy(), nsamples=500, silent=True)


def zennit_lrp(model, x):
    """From the output itself, as its relevance, where the tool's own examples begin with one."""
    composite = import_module("zennit.composites").EpsilonPlus()
    with import_module("zennit.attribution").Gradient(model=model, composite=composite) as attributor:
        return attributor(x.clone().requires_grad_(), lambda output: output.detach())[1]


WHOLE = "of the whole output"
UNCLAIMED = ", doesn't claim to add up"
ROWS = {
    ("ours", "integrated gradients"): ours(),
    ("ours", f"cell decomposition, {WHOLE}"): ours(method="cell_decomposition"),
    ("ours", f"LRP, {WHOLE}"): ours(method="lrp"),
    ("ours", "Shapley values, windows of 3 steps"): ours(method="shapley", by=3),
    ("ours", f"occlusion{UNCLAIMED}"): ours(method="occlusion"),
    ("captum", "IntegratedGradients"): captums("IntegratedGradients"),
    ("captum", "DeepLift"): captums("DeepLift"),
    ("captum", "GradientShap, adds up on average"): captums("GradientShap"),
    ("captum", f"InputXGradient{UNCLAIMED}"): captums("InputXGradient"),
    ("captum", f"FeatureAblation{UNCLAIMED}"): captums("FeatureAblation"),
    ("shap", "DeepExplainer, its check off"): shaps("DeepExplainer", check_additivity=False),
    ("shap", "GradientExplainer, adds up on average"): shaps("GradientExplainer"),
    ("shap", "KernelExplainer, 500 samples"): kernel_shap,
    ("zennit", f"EpsilonPlus, {WHOLE}"): zennit_lrp,
}


def missing(tool):
    """Why a tool can't be asked, or None."""
    try:
        import_module("lstm_explain" if tool == "ours" else tool)
    except ModuleNotFoundError as error:
        return "not installed" if error.name == tool else f"can't be imported: {error}"
    except Exception as error:  # a tool's own packages may not fit each other
        return f"can't be imported: {type(error).__name__}: {error}"
    return None


def gaps(model, x, sums, whole):
    """How far sums ``(batch, ...)`` are from what they should be, as a share of the difference of outputs ``(batch,)``."""
    with torch.no_grad():
        output, baseline = (model(of)[:, 0].double().numpy() for of in (x, torch.zeros_like(x)))
    added = np.asarray(torch.as_tensor(sums).detach()).astype(np.float64).reshape(len(x), -1).sum(1)
    return np.abs(added - (output if whole else output - baseline)) / np.abs(output - baseline)


def refusals(networks):
    """On how many networks SHAP's own check says that its DeepExplainer doesn't add up."""
    refused = 0
    for model, x, _ in networks:
        try:
            shaps("DeepExplainer")(model, x)
        except AssertionError:
            refused += 1
    return refused


def table(seeds):
    """Print it: half a minute of one core with every tool."""
    torch.set_num_threads(1)
    networks = [trained(seed) for seed in seeds]
    errors = [error for *_, error in networks]
    learnt = f"{len(networks)} networks, squared error {min(errors):.0e} to {max(errors):.0e}"
    print(f"\nthe adding problem, {STEPS} steps, {UNITS} units, {learnt}")
    print(f"|sum of attributions - difference of outputs|, as a share of the latter, {TESTED} sequences of each network")
    print(f"{'':50}{'median':>10}{'largest':>10}{'below 0.1 %':>13}{'ms each':>10}")
    without = {tool: missing(tool) for tool, _ in ROWS}
    for (tool, method), ask in ROWS.items():
        name = f"{tool}: {method}"
        if without[tool]:
            print(f"{name:50}  {without[tool]}")
            continue
        found, seconds = [], []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what others warn of is theirs to say
            for model, x, _ in networks:
                ask(model, x[:2])
                began = time.thread_time()
                sums = ask(model, x)
                seconds.append(time.thread_time() - began)
                found.append(gaps(model, x, sums, WHOLE in method))
        each = 1e3 * statistics.median(seconds) / TESTED
        print(f"{name:50}{np.median(found):10.1e}{np.max(found):10.1e}{np.mean(np.less(found, 1e-3)):13.0%}{each:10.2f}", flush=True)
    if not without["shap"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            print(f"left on, DeepExplainer's own check refuses {refusals(networks)} of {len(networks)} networks")
