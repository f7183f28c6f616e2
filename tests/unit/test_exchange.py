"""NIR files: what is in them, and that SpikingJelly and snnTorch make the same spikes and logits of them."""

import sys
from pathlib import Path

import nir
import pytest
import torch
import yaml
from snntorch.import_nir import import_from_nir
from spikingjelly.activation_based import nir_exchange

from spiking_diffusion import families, paths
from spiking_diffusion.cli import main
from spiking_diffusion.diffusion import SDID, ResidualSDID
from spiking_diffusion.errors import UserError
from spiking_diffusion.exchange import encoder_graph, neurons, sdid_graph
from spiking_diffusion.snn import LIF
from spiking_diffusion.vqsvae import VQSVAE

CPU = torch.device("cpu")
SIZE, SHAPE, STEPS = 5, (4, 4), 16
NEURONS = {
    "paper": {},
    "no decay of the input": {"decay_input": False, "tau": 4 / 3, "v_threshold": 0.7},
    "another rest": {"v_reset": -0.5, "v_threshold": 0.5, "tau": 3.0},
}
EXPORT = ["export", "--run", "digits", "--nir", "nir"]


def by_spikingjelly(path, current):
    """What the graph in a file sends, (T, B, ...), for an input (T, B, ...)."""
    return nir_exchange.import_from_nir(path, step_mode="m")(current)[0]


def by_snntorch(path, current):
    network = import_from_nir(nir.read(path))
    return torch.stack([network(x)[0] for x in current])


def one_layer(settings, shape):
    """A graph of neurons alone."""
    return nir.NIRGraph.from_list(neurons(settings, shape))


READERS = pytest.mark.parametrize("read", [by_spikingjelly, by_snntorch])


@pytest.fixture
def written(tmp_path):
    """``written(graph)``: the path of a file with it."""

    def write(graph):
        nir.write(tmp_path / "graph.nir", graph)
        return tmp_path / "graph.nir"

    return write


@pytest.fixture
def sdid(neuron, sdid_settings, lively):
    """``sdid(positions=2, conditions=3, ...)``: an SDID, residual if positions are given."""

    def make(conditions=0, shape=SHAPE, **changes):
        if "positions" in changes:
            settings = sdid_settings(architecture="residual", channels=[8, 8, 8], **changes)
            return lively(ResidualSDID(settings, neuron, SIZE, shape, conditions)).eval()
        return lively(SDID(sdid_settings(**changes), neuron, SIZE, STEPS)).eval()

    return make


@READERS
@pytest.mark.parametrize("changes", NEURONS.values(), ids=NEURONS)
def test_a_neuron_fires_at_the_same_steps(read, changes, neuron, written):
    settings = neuron.model_copy(update=changes)
    current = 2 * torch.randn(20, 3, 4, 5, 6)
    path = written(one_layer(settings, (4, 5, 6)))
    expected = LIF(settings)(current)
    assert 0.05 < expected.mean() < 0.95
    assert int((read(path, current) != expected).sum()) == 0


@READERS
@pytest.mark.parametrize("changes", [{}, {"tau": 4.0}, {"v_threshold": 0.7}], ids=str)
def test_a_membrane_exactly_at_the_threshold_fires(read, changes, neuron, written):
    """The float32 below does not reach it."""
    settings = neuron.model_copy(update=changes)
    current = torch.tensor([settings.v_threshold * settings.tau])
    below = torch.nextafter(current, torch.zeros(1))
    train = torch.cat([current, below, -current, current]).view(4, 1, 1, 1, 1)
    expected = LIF(settings)(train)
    assert expected.flatten().tolist()[:2] == [1, 0]
    assert torch.equal(read(written(one_layer(settings, (1, 1, 1))), train), expected)


@READERS
@pytest.mark.parametrize("changes", [{}, {"scale": 2}, {"blocks": 2}], ids=str)
@torch.no_grad()
def test_no_spike_of_the_encoder_differs(read, changes, vqsvae_settings, neuron, lively, written):
    settings = neuron.model_copy(update={"v_threshold": 0.75})
    model = lively(VQSVAE(vqsvae_settings(**changes), settings, (3, 16, 16))).eval()
    images = torch.rand(8, 3, 16, 16)
    expected = model.encoder(images)
    path = written(encoder_graph(model.encoder, (3, 16, 16)))
    found = read(path, (images - 0.5).expand(5, *images.shape))
    assert 0.05 < expected.mean() < 0.95 and set(found.unique().tolist()) == {0.0, 1.0}
    assert int((found != expected).sum()) == 0


@READERS
@pytest.mark.parametrize(
    "changes",
    [{}, {"input": "raw"}, {"channels": [6]}, {"positions": 0}, {"positions": 2}, {"positions": 8, "conditions": 3}],
    ids=str,
)
@torch.no_grad()
def test_logits_are_the_same(read, changes, sdid, written):
    model = sdid(**changes)
    tokens, t = torch.randint(SIZE + 1, (6, *SHAPE)), torch.arange(1, 7)
    expected = model(tokens, t)
    current = model.current(tokens, t)
    path = written(sdid_graph(model, SHAPE))
    found = read(path, current.expand(model.settings.T, *current.shape))
    assert found.shape == (4, *expected.shape) and not torch.equal(found[0], found[1]), "spikes differ by step"
    assert (found.mean(0) - expected).abs().max() < 1e-4 and expected.std() > 0.05


def test_nodes_and_edges_of_the_encoder(vqsvae_settings, neuron, written):
    model = VQSVAE(vqsvae_settings(blocks=1), neuron, (1, 16, 16))
    graph = nir.read(written(encoder_graph(model.encoder, (1, 16, 16))))
    layers = ["first", "second", "block0", "last", "third"]
    sources = ["input", "first_lif", "enter", "enter", "last_lif"]
    assert set(graph.edges) == {
        *zip(sources, layers, strict=True),
        *((name, f"{name}_lif") for name in layers),
        ("second_lif", "enter"),
        ("block0_lif", "block0_synapse"),
        ("block0_synapse", "last"),  # the shortcut: two edges into one node
        ("third_lif", "output"),
    }
    kinds = {name: type(node) for name, node in graph.nodes.items() if name not in ("input", "output")}
    assert {kinds.pop(f"{name}_lif") for name in layers} == {nir.LIF}
    assert kinds == dict.fromkeys([*layers, "enter", "block0_synapse"], nir.Conv2d)
    assert graph.nodes["first"].stride.tolist() == [2, 2] and graph.nodes["first"].padding.tolist() == [1, 1]
    assert graph.input_type["input"].tolist() == [1, 16, 16] and graph.output_type["output"].tolist() == [3, 4, 4]
    assert graph.metadata["steps"] == 5 and graph.metadata["input"] == "images - 0.5"


def test_nodes_and_edges_of_sdid(sdid, written):
    graph = nir.read(written(sdid_graph(sdid(), SHAPE)))
    chain = ["input", "block0", "block0_lif", "block1", "block1_lif", "block2", "block2_lif", "out_last", "logits"]
    skip = [("block0_lif", "out_first"), ("out_first", "logits")]
    assert set(graph.edges) == {*zip(chain, [*chain[1:], "output"], strict=True), *skip}
    assert set(graph.nodes) == {*chain, "out_first", "output"}


def test_equal_weights_give_equal_bytes(sdid, tmp_path):
    graph = sdid_graph(sdid(positions=2), SHAPE)
    for name in ("one", "two"):
        nir.write(tmp_path / name, graph)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_positions_need_a_square_grid(sdid):
    with pytest.raises(UserError, match="tokens are 4 x 3: a NIR file needs a square grid"):
        sdid_graph(sdid(positions=2, shape=(4, 3)), (4, 3))
    assert sdid_graph(sdid(positions=0, shape=(4, 3)), (4, 3)).output_type["output"].tolist() == [SIZE, 4, 3]


@pytest.fixture
def project(untrained):
    Path("params.yaml").write_text(yaml.safe_dump(untrained.model_dump()), encoding="utf-8")
    return untrained


@READERS
@torch.no_grad()
def test_the_command_line_writes_both_parts(read, project, capsys):
    assert main(EXPORT) == 0
    assert capsys.readouterr().out == "nir/encoder.nir\nnir/sdid.nir\n"
    assert sorted(path.name for path in Path("nir").iterdir()) == ["encoder.nir", "sdid.nir"]
    model = families.load(project.resolve("digits"), CPU)
    images = torch.rand(9, 1, 28, 28)
    spikes = read("nir/encoder.nir", (images - 0.5).expand(4, *images.shape))
    assert torch.equal(spikes, model.vqsvae.encoder(images)) and set(spikes.unique().tolist()) == {0.0, 1.0}
    tokens, t = model.encode(images), torch.full((9,), 5)
    current = model.sdid.current(tokens, t)
    logits = read("nir/sdid.nir", current.expand(2, *current.shape)).mean(0)
    assert (logits - model.sdid(tokens, t)).abs().max() < 1e-4


def test_what_the_user_can_fix(project, capsys, monkeypatch):
    def refused(*arguments):
        assert main(["export", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        return said

    Path("file").write_text("mine")
    assert "something of that name is in the way" in refused("--run", "digits", "--nir", "file")
    assert Path("file").read_text() == "mine"
    assert "digits-fsvae is a run of FSVAE" in refused("--run", "digits-fsvae", "--nir", "nir")
    assert "pretrained/digits/config.json is missing" in refused("--pretrained", "digits", "--nir", "nir")
    assert "--half is for copies" in refused("--run", "digits", "--nir", "nir", "--half")
    assert "--folder is for copies" in refused("--run", "digits", "--nir", "nir", "--folder", "x")
    assert "add --nir DIR" in refused("--pretrained", "digits")
    paths.model_path("digits", "sdid").unlink()
    assert "results/models/digits/sdid.safetensors is missing" in refused("--run", "digits", "--nir", "nir")
    monkeypatch.delitem(sys.modules, "spiking_diffusion.exchange")
    monkeypatch.setitem(sys.modules, "nir", None)  # as if it were not installed
    assert "install it with `pip install nir`" in refused("--run", "digits", "--nir", "nir")
    assert not Path("nir").exists()
