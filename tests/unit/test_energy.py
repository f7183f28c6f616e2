"""Operations counted by hand, and by loops over every spike."""

import doctest

import numpy as np
import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional, layer
from spikingjelly.activation_based import neuron as node
from spikingjelly.activation_based.op_counter import (
    DispatchCounterMode,
    LemaireEnergyProfiler,
    SynOpCounter,
)
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from spiking_diffusion import artifacts, paths
from spiking_diffusion.benchmark.plain import PlainDecoder, PlainEncoder, PlainSDID, plain_layer
from spiking_diffusion.diffusion import SDID, ResidualSDID
from spiking_diffusion.errors import UserError
from spiking_diffusion.families import load
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics import energy
from spiking_diffusion.metrics.energy import Counter, connections, count, fan_out, totals
from spiking_diffusion.snn import SpikingDecoder, SpikingEncoder, layers
from spiking_diffusion.stages import make

CPU = torch.device("cpu")


def always(layer, *channels):
    """Make the neurons of these channels fire at every step, and the others never."""
    nn.init.zeros_(layer.norm.weight)
    nn.init.constant_(layer.norm.bias, -10)
    layer.norm.bias.data[list(channels)] = 10
    return layer.eval()


class TwoLayers(nn.Module):
    """Conv 3x3 of a 4x4 image, 1 -> 2 channels, shown for 3 steps; conv 3x3 of stride 2, 2 -> 3 channels."""

    def __init__(self, neuron):
        super().__init__()
        self.first = layers.conv(neuron, 1, 2, 3)
        self.second = layers.conv(neuron, 2, 3, 3, stride=2)

    def forward(self, images):
        return self.second(self.first(images, steps=3))


@pytest.mark.parametrize(("channels", "rate"), [([0, 1], 1.0), ([1], 0.5), ([], 0.0)])
def test_two_layers_by_hand(neuron, channels, rate):
    """First layer: 16 places x 9 x 1 x 2 = 288 MACs, once for all steps. Second: 4 x 9 x 2 x 3 = 216 dense. Of the 36
    places that its four kernels ask, 25 are in the image: (2 + 3) rows x (2 + 3) columns; so 25 x 2 x 3 = 150 additions
    a step if both channels fire."""
    net = TwoLayers(neuron)
    always(net.first, *channels)
    always(net.second, 0)
    counter = Counter()
    with counter.counting(5, net=net), torch.no_grad():
        net(torch.rand(5, 1, 4, 4))
    table = counter.table().set_index("layer")
    first, second = table.loc["first"], table.loc["second"]
    assert (first["macs"], first["synops"], first["accumulates"], first["ann_macs"]) == (288, 288, 0, 288)
    assert (first["firing_rate"], first["neurons"]) == (rate, 3 * 2 * 16)
    assert np.isnan(first["input_rate"])
    assert (second["input_rate"], second["macs"], second["ann_macs"]) == (rate, 0, 216)
    assert second["synops"] == rate * 3 * 216
    assert second["accumulates"] == rate * 3 * 150
    assert second["firing_rate"] == pytest.approx(1 / 3)
    assert first["mj"] == pytest.approx(288 * 4.6e-9)
    assert second["mj"] == pytest.approx(rate * 648 * 0.9e-9)
    assert (table["calls"] == 1).all()

    # strictly: 288 MACs at each of 3 steps, and of each neuron and step a MAC, a bias, and an accumulate if it spikes;
    # as an ANN, a bias of each neuron
    assert first["strict_macs"] == 3 * 288 + 96
    assert first["strict_accumulates"] == 96 + rate * 96
    assert second["strict_macs"] == 36
    assert second["strict_accumulates"] == rate * 648 + 36 + 12
    assert first["strict_mj"] == pytest.approx((960 * 4.6 + (1 + rate) * 96 * 0.9) * 1e-9)
    assert first["strict_ann_mj"] == pytest.approx((288 * 4.6 + 32 * 0.9) * 1e-9)
    assert second["strict_ann_mj"] == pytest.approx((216 * 4.6 + 12 * 0.9) * 1e-9)

    sums = totals(counter.table())
    assert sums["strict_macs"] == 960 + 36
    assert sums["strict_mj"] == pytest.approx(first["strict_mj"] + second["strict_mj"])
    assert sums["strict_ann_ratio"] == pytest.approx(sums["strict_ann_mj"] / sums["strict_mj"])
    assert sums["mj"] == pytest.approx(288 * 4.6e-9 + rate * 648 * 0.9e-9)
    assert sums["ann_mj"] == pytest.approx((288 + 216) * 4.6e-9)
    assert sums["firing_rate"] == pytest.approx((rate * 96 + 1 / 3 * 36) / (96 + 36))


def test_a_network_without_a_spike_costs_nothing_but_its_neurons(neuron):
    decoder, counter = SpikingDecoder(neuron, 3, [2, 4], 1, 0.8).eval(), Counter()
    with counter.counting(2, decoder=decoder), torch.no_grad():
        decoder(torch.zeros(5, 2, 3, 2, 2))
    sums = totals(counter.table())
    assert (sums["mj"], sums["firing_rate"], sums["ann_ratio"]) == (0, 0, None)
    assert sums["ann_mj"] > 0
    # 4 channels of 4x4, 2 of 8x8, and the last map's 8x8 at 5 steps: its membrane leaks as well
    assert sums["strict_macs"] == sums["strict_accumulates"] == 5 * (4 * 16 + 2 * 64 + 64)
    assert sums["strict_mj"] > 0


def test_batches_add_up(neuron, lively):
    net, images = lively(TwoLayers(neuron)).eval(), torch.rand(6, 1, 4, 4)
    tables = []
    for size in (6, 2):
        counter = Counter()
        with counter.counting(6, net=net), torch.no_grad():
            for part in images.split(size):
                net(part)
        tables.append(counter.table())
    assert 0 < tables[0]["firing_rate"][0] < 1
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize(
    "synapse",
    [
        nn.Conv2d(3, 4, 3, 1, padding=1),
        nn.Conv2d(3, 4, 3, 2, padding=1),
        nn.Conv2d(3, 4, 1),
        nn.ConvTranspose2d(3, 4, 3, 2, padding=1, output_padding=1),
        nn.ConvTranspose2d(3, 4, 3, padding=1),
        nn.Linear(105, 4),
    ],
    ids=str,
)
def test_fan_out_is_what_every_spike_reaches(synapse):
    """One spike at a time: the outputs that a synapse without zero weights changes. The dense count is no smaller."""
    nn.init.uniform_(synapse.weight, 0.5, 1)
    shape = (105,) if isinstance(synapse, nn.Linear) else (3, 7, 5)
    spikes = (torch.rand(shape) < 0.3).double()
    with torch.no_grad():
        nothing = synapse(torch.zeros(1, *shape))
        reached = 0
        for place in spikes.nonzero():
            one = torch.zeros(1, *shape)
            one[(0, *place)] = 1
            reached += int((synapse(one) != nothing).sum())
    assert fan_out(synapse, spikes) == reached > 0
    everywhere = fan_out(synapse, torch.ones(shape, dtype=torch.double))
    assert everywhere <= connections(synapse, shape) <= everywhere * 2


def test_dense_counts_by_hand():
    assert connections(nn.Linear(7, 5), (7,)) == 35
    assert connections(nn.Conv2d(2, 3, 3, 2, padding=1), (2, 28, 28)) == 14 * 14 * 9 * 2 * 3
    assert connections(nn.ConvTranspose2d(2, 3, 3, 2, padding=1, output_padding=1), (2, 7, 7)) == 7 * 7 * 9 * 2 * 3


def test_read_out_map_of_a_decoder_is_counted_by_its_spikes(neuron):
    """The network applies it once to a sum over time; hardware adds at every spike."""
    decoder = SpikingDecoder(neuron, 3, [2, 4], 1, 0.8).eval()
    always(decoder.first)
    always(decoder.second, 0)
    counter = Counter()
    with counter.counting(2, decoder=decoder), torch.no_grad():
        decoder((torch.rand(5, 2, 3, 2, 2) < 0.5).float())
    out = counter.table().set_index("layer").loc["out"]
    assert (out["input_rate"], out["macs"], out["ann_macs"]) == (0.5, 0, 8 * 8 * 9 * 2)
    assert out["synops"] == 0.5 * 5 * 8 * 8 * 9 * 2
    assert out["accumulates"] == 5 * 22 * 22  # 8 places with 3 neighbours each, 2 of them with 2
    assert (out["strict_macs"], out["strict_accumulates"]) == (5 * 64, out["synops"] + 5 * 64)
    assert np.isnan(out["firing_rate"])


def test_read_out_map_of_sdid_is_fed_by_two_layers(neuron, tiny_params):
    settings = tiny_params().recipes["quick"].sdid.model_copy(update={"channels": [4, 6, 8]})
    model = SDID(settings, neuron, 5, 4).eval()
    always(model.first, 0)
    always(model.rest[0])
    always(model.rest[1], 0, 1)
    counter = Counter()
    with counter.counting(3, sdid=model), torch.no_grad():
        model(torch.randint(6, (3, 2, 2)), torch.ones(3, dtype=torch.long))
    table = counter.table().set_index("layer")
    assert list(table.index) == ["first", "out.first", "rest.0", "rest.1", "out.last"]
    assert table["input_rate"].fillna(-1).tolist() == [-1, 0.25, 0.25, 0, 0.25]
    assert table["ann_macs"].tolist() == [4 * 9 * n for n in (4 * 4, 4 * 5, 4 * 6, 6 * 8, 8 * 5)]
    assert table.loc["out.last", "synops"] == 0.25 * 2 * 4 * 9 * 8 * 5
    # the mean over time does not leak, and the two halves have one bias for each of 4 x 5 logits
    assert table.loc[["out.first", "out.last"], "strict_macs"].tolist() == [0, 0]
    extra = table["strict_accumulates"] - table["synops"]
    assert extra[["out.first", "out.last"]].tolist() == [0, 2 * 4 * 5]


def _spikingjelly(counter, net, *args):
    """Per image of 3, what SpikingJelly's counter sees in a plain network."""
    with DispatchCounterMode([counter]), torch.no_grad():
        net(*args)
    return counter.get_total() / 3


def _ours(net, *args):
    counter = Counter()
    with counter.counting(3, net=net), torch.no_grad():
        net(*args)
    return counter.table()


def _linear(neuron):
    return nn.Sequential(layers.linear(neuron, 7, 12), layers.linear(neuron, 12, 5))


@pytest.mark.parametrize(
    ("build", "plainly", "shape"),
    [
        (lambda neuron: SpikingEncoder(neuron, 1, [4, 6], 3, 5), PlainEncoder, (3, 1, 12, 8)),
        (lambda neuron: SpikingDecoder(neuron, 3, [4, 6], 2, 0.8), PlainDecoder, (5, 3, 3, 3, 2)),
        (_linear, lambda net: nn.Sequential(*map(plain_layer, net)), (5, 3, 7)),
    ],
    ids=["encoder", "decoder", "linear"],
)
def test_accumulates_are_those_of_spikingjelly(neuron, lively, build, plainly, shape):
    """SpikingJelly's SynOpCounter leaves out what would fall into the padding, as ``accumulates`` does. ``synops`` has
    it, so ``synops`` is larger where a kernel reaches over the border."""
    net = lively(build(neuron)).double().eval()
    x = torch.rand(shape).double() if len(shape) == 4 else (torch.rand(shape) < 0.4).double()
    table = _ours(net, x)
    assert _spikingjelly(SynOpCounter(), plainly(net), x) == pytest.approx(table["accumulates"].sum(), rel=1e-12)
    border = table["synops"].sum() - table["macs"].sum() - table["accumulates"].sum()
    assert border == pytest.approx(0) if len(shape) == 3 else border > 0


class Own(nn.Module):
    """A network as a user of SpikingJelly writes it, in either step mode."""

    def __init__(self, mode):
        super().__init__()
        torch.manual_seed(0)
        self.mode = mode
        self.net = nn.Sequential(
            layer.Conv2d(2, 8, 3, padding=1, bias=False),
            layer.BatchNorm2d(8),
            node.LIFNode(v_threshold=0.1),
            layer.Conv2d(8, 6, 3, stride=2, padding=2, dilation=2, groups=2),
            node.LIFNode(v_threshold=0.1),
            layer.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1),
            node.IFNode(v_threshold=0.1),
            layer.Flatten(),
            layer.Linear(4 * 10 * 10, 5),
        )
        functional.set_step_mode(self.net, mode)

    def forward(self, x):
        """(T, N, 2, 8, 8) -> (T, N, 5)."""
        functional.reset_net(self.net)
        return self.net(x) if self.mode == "m" else torch.stack([self.net(step) for step in x])


@pytest.mark.parametrize("mode", ["m", "s"])
def test_a_network_of_ones_own(mode):
    """Additions as SpikingJelly counts them; by hand the first layer, which sees pictures, and an ANN's operations."""
    net, x = Own(mode).double().eval(), torch.rand(4, 3, 2, 8, 8).double() * 3
    table = count(net, x, images=3, steps=4).set_index("layer")
    assert list(table.index) == ["net.0", "net.3", "net.5", "net.8"]
    assert table.loc["net.0", "macs"] == 4 * 64 * 9 * 2 * 8 and np.isnan(table.loc["net.0", "input_rate"])
    assert (table.loc[["net.3", "net.5", "net.8"], "macs"] == 0).all()
    assert (table["accumulates"] > 0).sum() >= 2
    counter = SynOpCounter()
    with DispatchCounterMode([counter]), torch.no_grad():
        net(x)
    assert counter.get_total() / 3 == pytest.approx(table["accumulates"].sum(), rel=1e-9)
    dense = {"net.0": 64 * 9 * 2 * 8, "net.3": 16 * 9 * 8 * 6 // 2, "net.5": 16 * 9 * 6 * 4, "net.8": 400 * 5}
    assert (table["ann_mj"] / 4.6e-9).to_dict() == pytest.approx(dense)
    spiking = table.drop("net.0")
    synops = spiking["input_rate"] * 4 * pd.Series(dense)[spiking.index]
    assert spiking["synops"].to_dict() == pytest.approx(synops.to_dict())
    assert (spiking["mj"] / 0.9e-9).to_dict() == pytest.approx(synops.to_dict())


def test_example_of_count():
    failed, tried = doctest.testmod(energy)
    assert tried and not failed


def test_layers_that_cannot_be_counted_are_named():
    for wrong in (nn.Conv1d(2, 2, 3), nn.Conv2d(2, 2, 3, padding="same"), nn.LSTM(2, 2)):
        with pytest.raises(UserError, match=r"0 is a .* that cannot be counted"):
            count(nn.Sequential(wrong), torch.rand(1, 2, 8), images=1, steps=1)


def test_accumulates_of_sdid_are_those_of_spikingjelly(neuron, lively, tiny_params):
    settings = tiny_params().recipes["quick"].sdid.model_copy(update={"channels": [4, 6, 8]})
    model = lively(SDID(settings, neuron, 5, 49)).double().eval()
    asked = torch.randint(6, (3, 7, 7)), torch.tensor([1, 20, 49])
    ours = _ours(model, *asked)["accumulates"].sum()
    assert _spikingjelly(SynOpCounter(), PlainSDID(model), *asked) == pytest.approx(ours, rel=1e-12)
    assert ours > 0


def test_strict_count_is_that_of_lemaire(neuron, lively):
    """MACs, biases and resets by SpikingJelly's ``LemaireEnergyProfiler``, with normalisation folded into convolutions.

    Its accumulates of spikes are not compared: a spike has ceil(kernel / stride) places a side there.
    """
    net, images = lively(SpikingEncoder(neuron, 1, [4, 6], 3, 5)).double().eval(), torch.rand(3, 1, 12, 8).double()
    table, plain = _ours(net, images), PlainEncoder(net)
    for container, _ in plain.layers:
        container[0] = fuse_conv_bn_eval(*container)
        del container[1]
    profiler = LemaireEnergyProfiler()
    profiler.bind_model(plain)
    with profiler, torch.no_grad():
        plain(images)
    counts, of_spikes = profiler.get_report().counts, table["synops"].sum() - table["macs"].sum()
    assert counts["mac"] / 3 == pytest.approx(table["strict_macs"].sum(), rel=1e-12)
    assert (counts["ac"] - counts["synop"]) / 3 == pytest.approx(table["strict_accumulates"].sum() - of_spikes)


def test_counting_changes_nothing_and_ends(untrained):
    drawing = load(untrained.resolve("digits"), CPU)
    expected = drawing.draw(10, "x", temperature=1.0, steps=49).images
    counter = Counter()
    with counter.counting(10, sdid=drawing.sdid, decoder=drawing.vqsvae.decoder):
        counted, notes, _ = drawing.draw(10, "x", temperature=1.0, steps=49)
    before = counter.table()
    assert torch.equal(counted, expected)
    assert all(layer.kernels for layer in drawing.sdid.modules() if isinstance(layer, layers.SpikingLayer))
    drawing.draw(10, "y", temperature=1.0, steps=49)
    pd.testing.assert_frame_equal(counter.table(), before)
    of_sdid = before[before["stage"] == "sdid"]
    assert of_sdid["calls"].tolist() == pytest.approx([notes["network_calls"]] * len(of_sdid))
    assert (before[before["stage"] == "decoder"]["calls"] == 1).all()


def test_stage_for_spiking_diffusion(untrained):
    artifacts.write_json(paths.tuning_path("digits"), {"temperature": 0.9})
    make(Job(untrained, "sample", "digits"), "cpu")
    row = artifacts.read_json(make(Job(untrained, "energy", "digits"), "cpu"))
    table = pd.read_csv("results/energy/digits.csv")
    assert list(dict.fromkeys(table["stage"])) == ["encoder", "sdid", "asg", "decoder"]
    assert table["input_rate"].isna().sum() == 3  # real-valued currents enter encoder, SDID and generator
    assert (table["macs"] > 0).sum() == 3
    assert table["firing_rate"].dropna().between(0, 1).all()
    assert 1 < row["network_calls"] < 49
    assert row["mj"] == pytest.approx(sum(row[f"{stage}_mj"] for stage in ("sdid", "asg", "decoder")))
    assert row["encoding_mj"] == row["encoder_mj"] > 0
    assert row["mj"] == pytest.approx(row["macs"] * 4.6e-9 + (row["synops"] - row["macs"]) * 0.9e-9)
    assert row["ann_ratio"] == pytest.approx(row["ann_macs"] * 4.6e-9 / row["mj"])
    assert row["strict_mj"] == pytest.approx(row["strict_macs"] * 4.6e-9 + row["strict_accumulates"] * 0.9e-9)
    assert row["strict_mj"] > row["mj"] and row["encoding_strict_mj"] > row["encoding_mj"]
    assert row["strict_ann_ratio"] == pytest.approx(row["strict_ann_mj"] / row["strict_mj"])
    first = {path: artifacts.sha256(paths.energy_path("digits").with_suffix(path)) for path in (".json", ".csv")}
    make(Job(untrained, "energy", "digits"), "cpu")
    assert first == {path: artifacts.sha256(paths.energy_path("digits").with_suffix(path)) for path in first}


def test_stage_for_fsvae(untrained):
    row = artifacts.read_json(make(Job(untrained, "fsvae_energy", "digits-fsvae"), "cpu"))
    table = pd.read_csv("results/energy/digits-fsvae.csv").set_index(["stage", "layer"])
    assert row["network_calls"] == 1
    assert row["mj"] == pytest.approx(row["prior_mj"] + row["out_of_latent_mj"] + row["decoder_mj"])
    assert row["encoding_mj"] == pytest.approx(row["encoder_mj"] + row["into_latent_mj"] + row["posterior_mj"])
    # c -> 2c -> 4c -> kc with c = 6 and k = 3; each layer once an image
    assert table.loc["prior"]["ann_macs"].tolist() == [6 * 12, 12 * 24, 24 * 18]
    assert table.loc["posterior"]["ann_macs"].tolist() == [12 * 12, 12 * 24, 24 * 18]
    assert (table["calls"] == 1).all()
    prior = table.loc["prior"]
    assert prior["input_rate"].tolist()[1:] == pytest.approx(prior["firing_rate"].tolist()[:-1])


def test_blocks_with_shortcuts_by_hand(neuron, tiny_params):
    """Neurons without a synapse before them, whose spikes go into two; currents on the shortcut cost nothing."""
    changes = {"T": 4, "architecture": "residual", "channels": [6, 6], "positions": 2}
    settings = tiny_params().recipes["quick"].sdid.model_copy(update=changes)
    model = ResidualSDID(settings, neuron, 5, (2, 2), 0).eval()
    always(model.blocks[0].fire, *range(6))
    always(model.blocks[1].fire, 0)
    always(model.last, 0, 1)
    counter = Counter()
    with counter.counting(3, sdid=model), torch.no_grad():
        model(torch.randint(6, (3, 2, 2)), torch.ones(3, dtype=torch.long))
    table = counter.table().set_index("layer")
    assert (table["macs"] == 0).all()
    fires = table.loc[["blocks.0.fire", "blocks.1.fire", "last"]]
    assert (fires["synops"] == 0).all()
    assert list(fires["firing_rate"]) == [1, 1 / 6, 2 / 6]
    dense = 2 * 2 * 9 * 6 * 6
    assert list(table.loc[["blocks.0.synapse", "blocks.1.synapse"], "synops"]) == [4 * dense, 4 * dense / 6]
    assert table.loc["blocks.0.synapse", "accumulates"] == 4 * 4 * 4 * 6 * 6  # each of 4 places reaches all 4
    assert list(table.loc[["blocks.0.mix", "blocks.1.mix"], "synops"]) == [4 * 6 * 4 * 4, 4 * 4 * 4]
    assert table.loc["out", "synops"] == pytest.approx(4 * 2 * 4 * 5)
    assert table.loc["out", "accumulates"] == 4 * 2 * 4 * 5
