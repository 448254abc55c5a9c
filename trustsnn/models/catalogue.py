"""The bundled architectures by name. Light: it imports no torch."""

MODELS = {
    "mlp": "two hidden layers of 256",
    "conv": "two 3x3 convolutions (32, 64) and a hidden layer of 128, for 8x8 to 32x32",
    "vgg9": "seven 3x3 convolutions (64 to 256) and a hidden layer of 1024",
    "vgg11": "eight 3x3 convolutions (64 to 512) and two hidden layers of 512",
}
