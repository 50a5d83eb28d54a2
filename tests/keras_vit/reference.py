"""The forward pass of a Vision Transformer in numpy, float64, written from the paper."""

import math

import numpy as np

_erf = np.vectorize(math.erf)


def gelu(x):
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def norm(x, p, name, epsilon):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return x * p[f"{name}/gamma"] + p[f"{name}/beta"]


def dense(x, p, name):
    return x @ p[f"{name}/kernel"] + p.get(f"{name}/bias", 0.0)


def split_heads(x, heads):
    """[B, N, D] to [B, H, N, D/H]."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def forward(model, images, attention=None, given=None):
    """Logits [B, C] of `model` for float images [B, H, W, 3], by its own arguments.

    The attention [B, H, N, N] of each block is appended to `attention`, if given; at the end that
    of a pooling query, [B, H, 1, N]. `given` maps indices of that list to what is to be in the
    place of what is computed.
    """
    attention = [] if attention is None else attention

    def observed(weights):
        attention.append((given or {}).get(len(attention), weights))
        return attention[-1]

    p = {v.path: np.asarray(v, np.float64) for v in model.variables}
    a = model.get_config()
    images = np.asarray(images, np.float64)
    (ph, pw), epsilon = a["patch_size"], a["norm_epsilon"]

    b, h, w, c = images.shape
    x = images.reshape(b, h // ph, ph, w // pw, pw, c).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(b, -1, ph * pw * c)  # [B, N, patch]
    kernel = p["patch_embedding/projection/kernel"]
    x = x @ kernel.reshape(-1, kernel.shape[-1]) + p.get("patch_embedding/projection/bias", 0.0)
    if a["patch_norm"]:
        x = norm(x, p, "patch_embedding/norm", epsilon)
    if a["position_embedding"] == "learned":
        x = x + p["position_embedding/position_embedding"]
    kinds = ("class", "distillation", "register")
    names = [f"prefix_tokens/{kind}_token{'s' * (kind == 'register')}" for kind in kinds]
    if prefix := [p[name] for name in names if name in p]:
        prefix = np.concatenate(prefix, 1) + p.get("prefix_tokens/positions", 0.0)
        x = np.concatenate([np.broadcast_to(prefix, (b, *prefix.shape[1:])), x], 1)
    else:
        prefix = np.zeros((1, 0))

    n, d = x.shape[1:]
    heads = a["num_heads"]
    scale = a["qk_scale"] or (d // heads) ** -0.5
    act = {"gelu": gelu, "gelu_tanh": gelu_tanh}[a["activation"]]
    for i in range(a["depth"]):
        name = f"block_{i:02d}"
        y = norm(x, p, f"{name}/norm1", epsilon)
        qkv = dense(y, p, f"{name}/attention/qkv")
        q, k, v = (split_heads(part, heads) for part in np.split(qkv, 3, -1))
        weights = observed(softmax(q @ k.transpose(0, 1, 3, 2) * scale))
        y = (weights @ v).transpose(0, 2, 1, 3).reshape(b, n, d)
        x = x + dense(y, p, f"{name}/attention/projection")
        y = norm(x, p, f"{name}/norm2", epsilon)
        x = x + dense(act(dense(y, p, f"{name}/mlp/fc1")), p, f"{name}/mlp/fc2")
    x = norm(x, p, "norm", epsilon)
    second = x[:, 1]
    if a["pooling"] == "map":
        x = x[:, prefix.shape[1] :]
        q = split_heads(dense(p["pooling/query_token"], p, "pooling/query"), heads)
        k, v = (split_heads(dense(x, p, f"pooling/{name}"), heads) for name in ("key", "value"))
        weights = observed(softmax(q @ k.transpose(0, 1, 3, 2) * (d // heads) ** -0.5))
        x = dense((weights @ v).reshape(b, d), p, "pooling/projection")
        y = norm(x, p, "pooling/norm", epsilon)
        x = x + dense(act(dense(y, p, "pooling/mlp/fc1")), p, "pooling/mlp/fc2")
    else:
        x = x[:, 0] if a["pooling"] == "token" else x[:, prefix.shape[1] :].mean(1)
    if a["representation_size"]:
        x = np.tanh(dense(x, p, "pre_logits"))
    if a["distillation_token"]:
        return (dense(x, p, "head") + dense(second, p, "distillation_head")) / 2
    return dense(x, p, "head") if a["num_classes"] else x
