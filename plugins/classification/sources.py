"""The files of the image sets."""

from __future__ import annotations

from collections.abc import Mapping

from growkit_plugins.common import Remote, Source, optional

__all__ = ["cifar10_source", "fashion_mnist_source", "mnist_source", "optional"]

_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
_MNIST_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
_CIFAR10 = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "md5:c58f30108f718f92721af3b95e74349a",
    "cifar-10-python.tar.gz",
)


def fashion_mnist_source() -> Source:
    """Fashion-MNIST: the images and labels of both parts, 31 MB."""
    return Source(
        "Fashion-MNIST",
        _idx_remotes("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", _MD5, "FashionMNIST/raw"),
        folders=(".", "FashionMNIST/raw"),
        endings=("", ".gz"),
        by_hand="download the four files from https://github.com/zalandoresearch/fashion-mnist, or install the Debian "
        "package dataset-fashion-mnist, which puts them in /usr/share/datasets/fashion-mnist",
    )


def mnist_source() -> Source:
    """MNIST: the images and labels of both parts, 12 MB.

    Its files are called like those of Fashion-MNIST, so they count only where the folder tells which they are.
    """
    url = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    return Source(
        "MNIST",
        _idx_remotes(url, _MNIST_MD5, "MNIST/raw"),
        folders=("MNIST/raw",),
        endings=("", ".gz"),
        by_hand=f"download the four files from {url} into MNIST/raw below a folder",
    )


def cifar10_source() -> Source:
    """CIFAR-10: five training batches and the test batch, 170 MB, as pickles or (`.bin`) as plain bytes."""
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    return Source(
        "CIFAR-10",
        dict.fromkeys(names, _CIFAR10),
        folders=("cifar-10-batches-py", "cifar-10-batches-bin", "."),
        endings=("", ".bin"),
        by_hand="download and unpack the python or the binary version from https://www.cs.toronto.edu/~kriz/cifar.html",
    )


def _idx_remotes(url: str, checksums: Mapping[str, str], folder: str) -> dict[str, Remote]:
    return {name: Remote(f"{url}{name}.gz", f"md5:{md5}", f"{folder}/{name}.gz") for name, md5 in checksums.items()}
