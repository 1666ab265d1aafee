"""Writes tiny.pth and tiny_protocol5.pth beside this file: checkpoints as torch.save makes them, without torch.

torch.save's layout (a zip of stored entries; a pickle whose storages are persistent ids) is made with Python's own
pickle and zipfile and stand-ins for the few torch names that a pickle mentions. Element i of every storage is
(i - 3) / 4, exact in every float type.
"""

import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile

FORMATS = {"Float": "<f", "Half": "<e", "BFloat16": None, "Double": "<d", "Long": "<q", "Bool": "<?"}

torch = types.ModuleType("torch")
torch._utils = types.ModuleType("torch._utils")
sys.modules.update({"torch": torch, "torch._utils": torch._utils})
for name in FORMATS:
    setattr(torch, name + "Storage", type(name + "Storage", (), {"__module__": "torch"}))


def function(name):
    def f(*args):
        raise NotImplementedError

    f.__name__ = f.__qualname__ = name
    f.__module__ = "torch._utils"
    setattr(torch._utils, name, f)
    return f


rebuild_tensor, rebuild_parameter = function("_rebuild_tensor_v2"), function("_rebuild_parameter")


class Storage:
    def __init__(self, kind, numel):
        self.kind, self.numel = kind, numel

    def bytes(self):
        values = [(i - 3) / 4 for i in range(self.numel)]
        if self.kind == "BFloat16":
            return b"".join(struct.pack("<f", v)[2:] for v in values)
        if self.kind in ("Long", "Bool"):
            values = range(self.numel)
        return b"".join(struct.pack(FORMATS[self.kind], v) for v in values)


class Tensor:
    def __init__(self, storage, offset, size, stride):
        self.args = (storage, offset, size, stride, False, collections.OrderedDict())

    def __reduce_ex__(self, protocol):
        return rebuild_tensor, self.args


class Parameter:
    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return rebuild_parameter, (self.data, True, collections.OrderedDict())


def save(path, value, protocol):
    storages, out = [], io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            if obj not in storages:
                storages.append(obj)
            return "storage", getattr(torch, obj.kind + "Storage"), str(storages.index(obj)), "cpu", obj.numel

    Pickler(out, protocol).dump(value)
    stem = os.path.splitext(os.path.basename(path))[0]
    entries = {"data.pkl": out.getvalue(), "byteorder": b"little"}
    entries.update({f"data/{i}": s.bytes() for i, s in enumerate(storages)})
    entries["version"] = b"3\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        for name, data in entries.items():
            z.writestr(zipfile.ZipInfo(f"{stem}/{name}"), data)


def main():
    shared = Storage("Float", 24)
    tied = Tensor(Storage("Float", 4), 0, (2, 2), (2, 1))
    state = collections.OrderedDict()
    state["whole"] = Parameter(Tensor(Storage("Float", 6), 0, (2, 3), (3, 1)))
    state["transposed"] = Tensor(Storage("Float", 6), 0, (3, 2), (1, 3))
    state["view"] = Tensor(shared, 5, (2, 3, 2), (12, 2, 1))
    state["rows"] = Tensor(shared, 6, (2, 6), (6, 1))
    state["tied.a"], state["tied.b"] = tied, tied
    state["half"] = Tensor(Storage("Half", 5), 0, (5,), (1,))
    state["brain"] = Tensor(Storage("BFloat16", 5), 0, (5,), (1,))
    state["double"] = Tensor(Storage("Double", 2), 0, (2,), (1,))
    state["long"] = Tensor(Storage("Long", 1), 0, (), ())
    state["bool"] = Tensor(Storage("Bool", 2), 0, (1, 2), (2, 1))
    state["empty"] = Tensor(Storage("Float", 0), 0, (0, 3), (3, 1))
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    big = {"epoch": 12, "lr": 1e-3, "seed": 1 << 70, "betas": [0.9, 0.999], "done": None, "raw": b"\x00" * 300}
    here = os.path.dirname(os.path.abspath(__file__))
    # Protocol 2 has no bytes, and torch.save's default is 2.
    save(os.path.join(here, "tiny.pth"), {"model": state, "epoch": -12, "names": ("a", "b", "c", "d")}, 2)
    save(os.path.join(here, "tiny_protocol5.pth"), {"state_dict": {"teacher": dict(state)}, **big}, 5)


if __name__ == "__main__":
    main()
