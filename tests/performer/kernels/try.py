import os, sys, time

os.environ["TRITON_INTERPRET"] = "1"
import torch
from protlm.performer.attention import FavorAttention
from protlm.performer.kernels import bidirectional as b

torch.manual_seed(0)


def rel(a, r):
    return float((a.double() - r).norm() / r.norm().clamp(min=1e-30))


def run(kernel, B, H, L, d, e, M, dtype, mask=False, scale=1.0):
    att = FavorAttention(d, M, kernel)
    q, k, v = (torch.randn(B, H, L, w) * scale for w in (d, d, e))
    q, k, v = (x.to(dtype) for x in (q + 0.5, k - 0.3, v))
    g = torch.randn(B, H, L, e).to(dtype)
    km = None
    if mask:
        km = torch.rand(B, L) > 0.3
        km[0] = True
        km[-1] = False if B > 2 else km[-1]
    import copy

    ref = copy.deepcopy(att).double()
    qd, kd, vd = (x.double().requires_grad_() for x in (q, k, v))
    o = ref(qd, kd, vd, km)
    gs = torch.autograd.grad(o, (qd, kd, vd), g.double())
    centred = att.feature_map.redrawn
    inputs, options = att._operands(q, k, v, km)
    t = time.time()
    r = b.forward(inputs, options, centred)
    G = b.backward(g, inputs, options, r, centred)
    print(
        kernel,
        B,
        H,
        L,
        d,
        e,
        M,
        dtype,
        mask,
        "%.1e" % rel(r.out, o.detach()),
        *("%.1e" % rel(x, y) for x, y in zip(G, gs)),
        "%.1fs" % (time.time() - t),
    )


f, h = torch.float32, torch.bfloat16
run("softmax", 2, 2, 63, 16, 16, 32, f)
run("softmax", 2, 2, 63, 20, 16, 100, f, True)
run("softmax", 3, 1, 257, 64, 64, 128, h, True)
run("relu", 2, 2, 63, 20, 16, 100, f, True)
run("relu", 2, 2, 63, 20, 16, 100, h, True)
run("relu_unprojected", 2, 1, 63, 20, 16, 100, f, True)
run("exp", 3, 1, 63, 20, 16, 100, f, True)
for n in ("gelu", "sigmoid", "tanh", "abs", "elu+1", "cos", "identity", "hyperbolic", "optimal"):
    run(n, 1, 1, 63, 20, 16, 32, f)
