"""Models of other frameworks behind trustsnn's contract."""

from trustsnn.interop.wrap import WrappedModel, wrap

__all__ = ["WrappedModel", "wrap"]
