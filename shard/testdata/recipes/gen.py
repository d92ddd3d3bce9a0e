#!/usr/bin/env python3
"""Writes llama.txt: what llama.cpp's own quantizer makes of each tensor.

    gen.py LIBDIR > llama.txt
    gen.py LIBDIR MODEL.gguf > digests.txt

LIBDIR holds libllama and the ggml libraries it needs. For every model below a
GGUF file with the names of a real one, and rows just long enough, goes through
llama_model_quantize with each file type; the types are read from what it
writes. Lines: the model, then for each recipe every kind of tensor with its
types from layer to layer, runs counted.

With a model, whose types are F32, it is that which is quantized, and lines are
the SHA-256 of the bytes of all tensors in the order of their names.
"""
import ctypes, glob, hashlib, os, struct, sys, tempfile

RECIPES = {"q2_K_M": 10, "q3_K_S": 11, "q3_K_M": 12, "q3_K_L": 13, "q4_K_S": 14, "q4_K_M": 15, "q5_K_S": 16, "q5_K_M": 17}
TYPES = {0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0",
         10: "q2_K", 11: "q3_K", 12: "q4_K", 13: "q5_K", 14: "q6_K"}
BLOCKS = {"f32": (1, 4), "f16": (1, 2), "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34),
          "q2_K": (256, 84), "q3_K": (256, 110), "q4_K": (256, 144), "q5_K": (256, 176), "q6_K": (256, 210)}

# arch, layers, heads, kv heads, experts, tied, columns of ffn_down, of the rest
MODELS = [
    ("llama", 1, 4, 4, 0, True, 256, 256),
    ("llama", 2, 4, 4, 0, False, 256, 256),
    ("llama", 5, 8, 4, 0, True, 172, 64),
    ("llama", 7, 8, 2, 0, False, 512, 256),
    ("llama", 8, 8, 2, 0, True, 256, 256),
    ("llama", 15, 8, 8, 0, False, 256, 256),
    ("llama", 16, 8, 2, 0, False, 256, 512),
    ("llama", 22, 32, 4, 0, False, 256, 256),
    ("llama", 32, 32, 8, 0, False, 96, 256),
    ("llama", 32, 32, 32, 0, False, 256, 288),
    ("llama", 32, 32, 8, 8, False, 256, 256),
    ("llama", 6, 32, 8, 8, True, 288, 256),
    ("llama", 24, 32, 32, 4, False, 256, 256),
    ("llama", 80, 64, 8, 0, False, 256, 256),
    ("llama", 80, 64, 64, 0, False, 256, 256),
    ("qwen2", 24, 14, 2, 0, True, 256, 128),
    ("qwen2", 80, 64, 8, 0, False, 256, 256),
    ("qwen3", 36, 32, 8, 0, False, 256, 256),
    ("qwen3", 80, 64, 8, 0, False, 256, 256),
    ("qwen3moe", 16, 32, 4, 128, False, 256, 256),
]


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def write(path, arch, layers, heads, kv, experts, tied, down, cols):
    kvs = [("general.architecture", 8, text(arch))]
    for key, n in [("block_count", layers), ("context_length", 128), ("embedding_length", 64 * heads), ("feed_forward_length", 512),
                   ("attention.head_count", heads), ("attention.head_count_kv", kv), ("vocab_size", 8), ("rope.dimension_count", 64)]:
        kvs.append((arch + "." + key, 4, struct.pack("<I", n)))
    if experts:
        kvs += [(arch + ".expert_count", 4, struct.pack("<I", experts)), (arch + ".expert_used_count", 4, struct.pack("<I", 2)),
                (arch + ".expert_feed_forward_length", 4, struct.pack("<I", 512))]
    kvs.append((arch + ".attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)))
    tensors = [("token_embd.weight", [cols, 2]), ("output_norm.weight", [cols])]
    if not tied:
        tensors.append(("output.weight", [cols, 2]))
    for i in range(layers):
        b = "blk.%d." % i
        tensors += [(b + "attn_norm.weight", [cols]), (b + "ffn_norm.weight", [cols])]
        tensors += [(b + n + ".weight", [cols, 2]) for n in ("attn_q", "attn_k", "attn_v", "attn_output")]
        if experts:
            tensors += [(b + "ffn_gate_inp.weight", [cols, experts])]
            tensors += [(b + n + "_exps.weight", [down if n == "ffn_down" else cols, 2, experts]) for n in ("ffn_gate", "ffn_up", "ffn_down")]
        else:
            tensors += [(b + n + ".weight", [down if n == "ffn_down" else cols, 2]) for n in ("ffn_gate", "ffn_up", "ffn_down")]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(kvs))
    for key, kind, value in kvs:
        head += text(key) + struct.pack("<I", kind) + value
    data = b""
    for name, dims in tensors:
        n = 1
        for d in dims:
            n *= d
        head += text(name) + struct.pack("<I", len(dims)) + struct.pack("<%dQ" % len(dims), *dims) + struct.pack("<IQ", 0, len(data))
        data += b"".join(struct.pack("<f", ((i * 37) % 101 - 50) / 64) for i in range(n))
        data += bytes(-len(data) % 32)
    head += bytes(-len(head) % 32)
    with open(path, "wb") as f:
        f.write(head + data)


def tensors(path):
    """The type and the bytes of each tensor of a GGUF file, by name."""
    with open(path, "rb") as f:
        b = f.read()
    at = 8

    def take(fmt):
        nonlocal at
        v = struct.unpack_from("<" + fmt, b, at)[0]
        at += struct.calcsize(fmt)
        return v

    def string():
        nonlocal at
        n = take("Q")
        at += n
        return b[at - n:at].decode()

    def value(kind):
        if kind == 8:
            return string()
        if kind == 9:
            kind, n = take("I"), take("Q")
            return [value(kind) for _ in range(n)]
        return take(sizes[kind])

    sizes = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
    count, pairs = take("Q"), take("Q")
    for _ in range(pairs):
        string()
        value(take("I"))
    infos = []
    for _ in range(count):
        name, elements = string(), 1
        for _ in range(take("I")):
            elements *= take("Q")
        infos.append((name, TYPES[take("I")], elements, take("Q")))
    data = (at + 31) // 32 * 32
    out = {}
    for name, kind, elements, offset in infos:
        values, size = BLOCKS[kind]
        out[name] = kind, b[data + offset:data + offset + elements // values * size]
    return out


class Params(ctypes.Structure):
    _fields_ = [("nthread", ctypes.c_int32), ("ftype", ctypes.c_int32), ("output", ctypes.c_int32), ("embedding", ctypes.c_int32),
                ("flags", ctypes.c_bool * 6), ("imatrix", ctypes.c_void_p), ("kv", ctypes.c_void_p), ("tt", ctypes.c_void_p), ("prune", ctypes.c_void_p)]


def runs(list_):
    out = []
    for t in list_:
        if out and out[-1][0] == t:
            out[-1][1] += 1
        else:
            out.append([t, 1])
    return " ".join("%s*%d" % (t, n) for t, n in out)


def main():
    for name in ("libggml-base.so", "libggml.v*.so", "libllama.v*.so"):
        lib = ctypes.CDLL(glob.glob(os.path.join(sys.argv[1], name))[0], mode=ctypes.RTLD_GLOBAL)
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    messages = []
    log = quiet(lambda level, text, _: messages.append(text.decode()))
    lib.llama_log_set(log, None)
    lib.llama_model_quantize_default_params.restype = Params
    lib.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Params)]

    def quantize(src, dst, ftype):
        p = lib.llama_model_quantize_default_params()
        p.ftype, p.nthread = ftype, 1
        if lib.llama_model_quantize(src.encode(), dst.encode(), ctypes.byref(p)) != 0:
            sys.exit("".join(messages[-5:]))
        return tensors(dst)

    if len(sys.argv) > 2:
        for recipe, ftype in RECIPES.items():
            with tempfile.TemporaryDirectory() as d:
                got = quantize(sys.argv[2], os.path.join(d, "out.gguf"), ftype)
                print(recipe, hashlib.sha256(b"".join(got[name][1] for name in sorted(got))).hexdigest())
        return
    print("# What llama.cpp's quantizer chooses, by gen.py from", os.path.basename(glob.glob(os.path.join(sys.argv[1], "libllama.v*.so"))[0]))
    for m in MODELS:
        with tempfile.TemporaryDirectory() as d:
            src, dst = os.path.join(d, "in.gguf"), os.path.join(d, "out.gguf")
            write(src, *m)
            print("\nmodel arch=%s layers=%d heads=%d kv=%d experts=%d tied=%s down=%d cols=%d" % m)
            for recipe, ftype in RECIPES.items():
                got, kinds = quantize(src, dst, ftype), {}
                for name in sorted(got, key=lambda n: int(n.split(".")[1]) if n.startswith("blk.") else -1):
                    kinds.setdefault(name.split(".")[-2], []).append(got[name][0])
                for kind in sorted(k for k in kinds if not k.endswith("_norm")):
                    print(recipe, kind, runs(kinds[kind]))


main()
