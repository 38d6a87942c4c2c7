"""Small changes that make a valid GGUF file wrong, to be put together in tables of cases."""

from collections.abc import Callable

from gguf_writing import Gguf, Tensor

Change = Callable[[Gguf], None]


def setting(**attributes: object) -> Change:
    """Set attributes of the file itself."""

    def change(file: Gguf) -> None:
        for name, value in attributes.items():
            setattr(file, name, value)

    return change


def field(key: str, value: bytes) -> Change:
    """Give a key another value."""

    def change(file: Gguf) -> None:
        file.fields[key] = value

    return change


def without(name: str) -> Change:
    """Leave out a key or a tensor."""

    def change(file: Gguf) -> None:
        assert (file.fields.pop(name, None) or file.tensors.pop(name, None)) is not None

    return change


def more_fields(*fields: tuple[str | bytes, bytes]) -> Change:
    """Add keys behind the others, whatever there is already."""
    return lambda file: file.more_fields.extend(fields)


def more_tensors(*tensors: tuple[str, Tensor]) -> Change:
    """Add tensors behind the others, whatever there is already."""
    return lambda file: file.more_tensors.extend(tensors)


def tensor(name: str, **attributes: object) -> Change:
    """Set attributes of a tensor."""

    def change(file: Gguf) -> None:
        for attribute, value in attributes.items():
            setattr(file.tensors[name], attribute, value)

    return change
