"""Tokens are attributed at their embedding."""

import pytest
import torch
from attributed import ENDS, METHODS, Function, Words, refused, tokens, whereabouts
from cases import close, randomise
from torch import nn

import lstm_explain as lx


@pytest.mark.parametrize("method", METHODS)
def test_tokens_are_attributed_as_the_rest_of_the_network_attributes_their_embeddings(method):
    model = Words()
    ours = lx.attribute(model, tokens(), target=(-1, 2), lengths=ENDS, method=method)
    rest = lx.attribute(model.rest, model.embedding(tokens()), target=(-1, 2), lengths=ENDS, method=method)
    assert ours.attributions.shape == ((3, 5) if method == "occlusion" else (3, 5, 3))
    close(ours.attributions, rest.attributions)
    close(ours.output, rest.output)
    assert (ours.settings["embedding"], rest.settings["embedding"]) == ("embedding", None)


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
@pytest.mark.parametrize(
    ("given", "as_vectors", "said"),
    [
        (None, lambda table: torch.zeros(3), "0"),
        (0, lambda table: table[0], "token 0"),
        (3, lambda table: table[3], "token 3"),
        (torch.tensor([8, 1, 1, 1, 2]), lambda table: table[[8, 1, 1, 1, 2]], "token tensor (5,)"),
        (torch.tensor(3) - tokens().clamp(max=3), lambda table: table[3 - tokens().clamp(max=3)], "token tensor (3, 5)"),
        (torch.tensor([0.5, -1.0, 2.0]), lambda table: torch.tensor([0.5, -1.0, 2.0]), "tensor (3,)"),
        (0.25, lambda table: torch.full((3,), 0.25), "0.25"),
    ],
)
def test_a_baseline_is_a_token_or_tokens_or_a_vector_or_a_number(given, as_vectors, said, method):
    model = Words()
    ours = lx.attribute(model, tokens(), target=(-1, 2), baselines=given, method=method)
    table = model.embedding.weight.detach()
    rest = lx.attribute(model.rest, table[tokens()], target=(-1, 2), baselines=as_vectors(table).double(), method=method)
    close(ours.attributions, rest.attributions)
    close(ours.baseline_output, rest.baseline_output)
    assert ours.settings["baselines"] == said


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_a_baseline_may_be_computed_from_the_weights(method):
    model = Words()
    mean = model.embedding.weight.mean(0)
    expected = lx.attribute(model, tokens(), target=(-1, 2), baselines=mean.detach(), method=method)
    close(lx.attribute(model, tokens(), target=(-1, 2), baselines=mean, method=method).attributions, expected.attributions)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_bytes_that_the_model_widens_itself(dtype):
    class Bytes(Words):
        def forward(self, tokens):
            return super().forward(tokens.long())

    close(
        lx.attribute(Bytes(), tokens().to(dtype), target=(-1, 2)).attributions, lx.attribute(Words(), tokens(), target=(-1, 2)).attributions
    )


def test_a_hook_on_the_embedding_is_applied_once():
    model = Words()
    model.embedding.register_forward_hook(lambda module, args, output: 2 * output)
    close(lx.attribute(model, tokens(), target=(4, 2)).output, model(tokens())[:, 4, 2].detach())


# ---- Time first


@pytest.mark.parametrize("method", METHODS)
def test_tokens_may_be_turned_to_time_first_before_they_are_embedded(method):
    first, last = (lx.attribute(Words(turned), tokens(), target=(-1, 2), lengths=ENDS, method=method) for turned in (False, True))
    close(first.attributions, last.attributions)
    close(first.output, last.output)


@pytest.mark.parametrize("method", METHODS)
def test_time_first_tokens_that_read_the_same_both_ways(method):
    same = torch.tensor([[1, 3], [3, 3]])
    first, last = (lx.attribute(Words(turned), same, target=(-1, 2), method=method) for turned in (False, True))
    close(first.attributions, last.attributions)


# ---- Which embedding


class TwoTables(Words):
    def __init__(self):
        super().__init__()
        self.other = randomise(nn.Embedding(9, 3).double(), seed=1)

    def forward(self, tokens):
        return self.rest(self.embedding(tokens) + self.other(tokens))[0]


def test_of_two_embeddings_one_is_named():
    model = TwoTables()
    with pytest.raises(lx.InputError, match="needed one torch.nn.Embedding .*, found embedding, other: say which with embedding="):
        lx.attribute(model, tokens(), target=(-1, 2))
    ours = lx.attribute(model, tokens(), target=(-1, 2), embedding="other")
    assert ours.settings["embedding"] == "other"
    rest = Function(lambda x: model.rest(model.embedding(tokens()[:1]) + x)[0])
    close(ours.attributions[:1], lx.attribute(rest, model.other(tokens()[:1]), target=(-1, 2)).attributions)


class Twice(Words):
    def forward(self, tokens):
        return self.rest(self.embedding(tokens) + self.embedding(tokens).flip(1))[0]


class Shifted(Words):
    def forward(self, tokens):
        return self.rest(self.embedding(tokens[:, 1:]))[0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Twice, "needed embedding to be called once in a forward pass, got a second call"),
        (Shifted, r"needed embedding to be called with the inputs, got \(2, 4\) that differs: name another layer"),
    ],
)
def test_tokens_whose_place_is_not_certain_are_refused(model, message):
    model = model()
    before = whereabouts(model)
    with pytest.raises(lx.InputError, match=message):
        lx.attribute(model, tokens(), target=(-1, 2))
    assert whereabouts(model) == before


def test_occlusion_refuses_an_embedding_that_is_never_called():
    class Table(Words):
        def forward(self, tokens):
            return self.rest(self.embedding.weight[tokens])[0]

    refused(Table(), tokens(), target=(-1, 2), method="occlusion")
