"""The bundled architectures by name. Light: it imports no torch."""

MODELS = {
    "mlp": "two hidden layers of 256",
    "conv": "two 3x3 convolutions (32, 64) and a hidden layer of 128, for 8x8 to 32x32",
    "vgg9": "seven 3x3 convolutions (64 to 256) and a hidden layer of 1024",
    "vgg11": "eight 3x3 convolutions (64 to 512) and two hidden layers of 512",
    "sew-resnet18": "spike-element-wise residuals (Fang 2021), 17 convolutions (64 to 512)",
    "sew-resnet34": "the same with 33 convolutions",
    "sew-resnet50": "the same with 49 convolutions in bottlenecks (256 to 2048)",
    "sew-resnet-small": "the same with 7 convolutions (32 to 128)",
    "ms-resnet18": "membrane-shortcut residuals (Hu 2021), 17 convolutions (64 to 512)",
    "ms-resnet34": "the same with 33 convolutions",
    "ms-resnet104": "the same with 105 convolutions, three of them before the first block",
    "ms-resnet-small": "the same with 7 convolutions (32 to 128)",
    "spikformer-4-256": "spiking self-attention, residuals of spikes (Zhou 2023): 4 blocks, tokens of 256 channels",
    "spikformer-2-384": "the same with 2 blocks, 384 channels",
    "spikformer-4-384": "the same with 4 blocks, 384 channels",
    "spikformer-small": "the same with 1 block, 128 channels",
    "spikingformer-4-256": "spiking self-attention, residuals of currents (Zhou 2023): 4 blocks, tokens of 256 channels",
    "spikingformer-2-384": "the same with 2 blocks, 384 channels",
    "spikingformer-4-384": "the same with 4 blocks, 384 channels",
    "spikingformer-small": "the same with 1 block, 128 channels",
    "sdt-2-256": "spike-driven transformer (Yao 2023): 2 blocks, tokens of 256 channels, attention without products of matrices",
    "sdt-2-512": "the same with 2 blocks, 512 channels",
    "sdt-small": "the same with 1 block, 128 channels",
}

BUILDERS = {
    "onestep": "trustsnn.models.onestep:build_onestep",
    "onestep-rnn": "trustsnn.models.onestep:build_onestep",
    "extended": "trustsnn.models.extended:build_extended",
    "s4nn": "trustsnn.temporal.s4nn:S4NN",
    "alpha": "trustsnn.temporal.alpha:AlphaNetwork",
    "nir": "trustsnn.interop.plain:build",
}
"""Architectures that `trustsnn.models.build` does not make, with arguments of their own, and what makes them."""
