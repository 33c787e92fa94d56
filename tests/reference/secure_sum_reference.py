"""The secure sum a second time: slow, plain, written from docs/secure-sum-wire.md alone.

Nothing here imports fedprint. Vectors are lists of Python integers, fields are plain loops, and a
name is the name on the wire page. From `cryptography` come only X25519, ChaCha20-Poly1305, AES and
Ed25519. `make_vectors.py` makes the known answers of tests/vectors/ with it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import struct
from fractions import Fraction

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

NAME = "fedprint-sum-1"

# ---- Notation


def framed(*parts):
    """For each part its length as 8 bytes big-endian, then the part."""
    out = b""
    for part in parts:
        data = part.encode("utf-8") if isinstance(part, str) else bytes(part)
        out += len(data).to_bytes(8, "big") + data
    return out


def H(tag, *parts):  # noqa: N802
    return hashlib.sha256(framed(NAME, tag, *parts)).digest()


def hkdf(ikm, salt, info, length):
    """RFC 5869 with SHA-256."""
    prk = hmac.new(salt, ikm, hashlib.sha256).digest()
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([counter]), hashlib.sha256).digest()
        out += block
        counter += 1
    return out[:length]


def KDF(secret, salt, tag, *parts):  # noqa: N802
    return hkdf(secret, salt, framed(NAME, tag, *parts), 32)


def stream(key, length):
    """Bytes of the AES-256-CTR keystream from counter 0."""
    cipher = Cipher(AES256(key), CTR(bytes(16))).encryptor()
    return cipher.update(bytes(length)) + cipher.finalize()


def PRG(seed, k):  # noqa: N802
    data = stream(seed, 4 * k)
    return [int.from_bytes(data[4 * i : 4 * i + 4], "little") for i in range(k)]


def cj(value):
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def sha256(data):
    return hashlib.sha256(data).digest()


# ---- Epoch


def public_key(sk):
    return X25519PrivateKey.from_private_bytes(sk).public_key().public_bytes_raw()


def pair_secret(sk, pk, roster_digest, epoch, i, j):
    """KDF(X25519(sk_i, pk_j), salt = roster digest, "pair", epoch, low, high)."""
    shared = X25519PrivateKey.from_private_bytes(sk).exchange(X25519PublicKey.from_public_bytes(pk))
    low, high = sorted([i, j])
    return KDF(shared, roster_digest, "pair", epoch.to_bytes(8, "big"), low, high)


def epoch_keys_digest(entries):
    """entries: dicts of public_key (hex), signature (hex), site."""
    return H("epoch-keys", cj(sorted(entries, key=lambda entry: entry["site"])))


# ---- Transcript


def transcript(fields):
    return H("transcript", cj(fields))


def rotation_seed(run, round_, model_digest):
    return H("rotation", cj({"run": run, "round": round_, "model_digest": model_digest}))


# ---- Numbers


def block_of(dimension):
    if dimension >= 4096:
        return 4096
    block = 1
    while block < max(dimension, 32):
        block *= 2
    return block


def columns_of(dimension):
    return -(-dimension // block_of(dimension))


def padded_of(dimension):
    return block_of(dimension) * columns_of(dimension)


def modulus_bits_of(bits, total_weight):
    extra = 0
    while 2**extra < total_weight:
        extra += 1
    return bits + extra


def half_of(bits):
    return 2 ** (bits - 1) - 1


def scale_of(numbers):
    padded = padded_of(numbers["dimension"])
    return half_of(numbers["bits"]) * math.sqrt(padded) / (6 * numbers["norm_bound"])


def hadamard(column):
    """Sylvester order, over sqrt(B); its own inverse."""
    out = list(column)
    size = len(out)
    step = 1
    while step < size:
        for start in range(0, size, 2 * step):
            for k in range(start, start + step):
                out[k], out[k + step] = out[k] + out[k + step], out[k] - out[k + step]
        step *= 2
    return [x / math.sqrt(size) for x in out]


def signs_of(seed, padded):
    words = PRG(seed, padded // 32)
    return [-1 if (words[e // 32] >> (e % 32)) & 1 else 1 for e in range(padded)]


def each_column(flat, dimension):
    """`hadamard` of every column of the row-major (B, K) matrix."""
    block, columns = block_of(dimension), columns_of(dimension)
    out = [0.0] * (block * columns)
    for c in range(columns):
        rotated = hadamard([flat[r * columns + c] for r in range(block)])
        for r in range(block):
            out[r * columns + c] = rotated[r]
    return out


def bounded(update, norm_bound):
    """Step 1: (finite vector of at most this norm, count of non-finite elements, scaled?)."""
    finite = [x if math.isfinite(x) else 0.0 for x in update]
    norm = math.sqrt(math.fsum(x * x for x in finite))
    scaled = norm > norm_bound
    if scaled:
        finite = [x * (norm_bound / norm) for x in finite]
    return finite, sum(not math.isfinite(x) for x in update), scaled


def rotate(finite, numbers, seed):
    """Steps 2 and 3 on a vector of length d; result of length padded."""
    padded = padded_of(numbers["dimension"])
    flat = list(finite) + [0.0] * (padded - len(finite))
    signs = signs_of(seed, padded)
    return each_column([s * x for s, x in zip(signs, flat, strict=True)], numbers["dimension"])


def quantise(update, numbers, seed, weight, rounding_seed):
    """Steps 1 to 5. Returns (v, clipped, non_finite, scaled)."""
    finite, non_finite, scaled = bounded(update, numbers["norm_bound"])
    rotated = rotate(finite, numbers, seed)
    half, scale = half_of(numbers["bits"]), scale_of(numbers)
    words = PRG(rounding_seed, len(rotated))
    vector, clipped = [], 0
    for x, word in zip(rotated, words, strict=True):
        q = math.floor(x * scale + (word >> 8) * 2.0**-24)
        if q < -half or q > half:
            clipped += 1
        q = max(-half, min(half, q))
        vector.append((weight * q) % 2 ** numbers["modulus_bits"])
    return vector, clipped, non_finite, scaled


def mean(total, numbers, seed, weight_of_survivors):
    """The mean update in float64 from the sum mod 2^m."""
    m, scale = numbers["modulus_bits"], scale_of(numbers)
    signed = [v - 2**m if v >= 2 ** (m - 1) else v for v in total]
    flat = each_column([v / (scale * weight_of_survivors) for v in signed], numbers["dimension"])
    signs = signs_of(seed, len(flat))
    return [s * x for s, x in zip(signs, flat, strict=True)][: numbers["dimension"]]


# ---- Numbers of mode distributed


def root_up(value):
    """Square root of a whole number, rounded up."""
    root = math.isqrt(value)
    return root if root * root == value else root + 1


def shared_numbers(d, sigma, q, clipping_norm, threshold, declared):
    """What everybody computes of a round of mode distributed. sigma, q, clipping_norm: float."""
    padded, r = padded_of(d), 0
    while 2**r < 1000 * root_up(padded):
        r += 1
    delta = 2**r + root_up(padded)
    variance = math.ceil((Fraction(sigma) * delta) ** 2 / threshold)
    limits = []
    for patients in declared:
        expected = q * patients
        most = math.ceil(expected + 6.0 * math.sqrt(expected) + 6.0)
        limits.append(math.ceil(Fraction(6 * most * 2**r, math.isqrt(padded))))
    room, m = sum(limits) + 10 * root_up(len(declared) * variance), 1
    while 2 ** (m - 1) <= room:
        m += 1
    return {
        "dimension": d,
        "bits": r,
        "modulus_bits": m,
        "norm_bound": clipping_norm,
        "sample_rate": q,
        "declared_patients": list(declared),
        "limits": limits,
        "share_variance": variance,
    }


def shared_integers(total, numbers, place, seed):
    """Before noise: rotated, 2^r / C steps to the unit, rounded half up, clamped."""
    scale, limit = 2.0 ** numbers["bits"] / numbers["norm_bound"], numbers["limits"][place]
    rotated = rotate(total, numbers, seed)
    return [max(-limit, min(limit, math.floor(x * scale + 0.5))) for x in rotated]


def shared_step(total, numbers, seed, places):
    """Minus the noisy mean gradient, float64, from the sum mod 2^m over the hospitals `places`."""
    m, scale = numbers["modulus_bits"], 2.0 ** numbers["bits"] / numbers["norm_bound"]
    expected = numbers["sample_rate"] * sum(numbers["declared_patients"][i] for i in places)
    signed = [v - 2**m if v >= 2 ** (m - 1) else v for v in total]
    flat = each_column([v / (scale * expected) for v in signed], numbers["dimension"])
    signs = signs_of(seed, len(flat))
    return [s * x for s, x in zip(signs, flat, strict=True)][: numbers["dimension"]]


def server_step(before, total, numbers, seed, weight_of_survivors, learning_rate):
    """The model after a round, float32, from the model before (one array) and the sum mod 2^m."""
    pairs = zip(before, mean_update(total, numbers, seed, weight_of_survivors), strict=False)
    return [float32(w + learning_rate * x) for w, x in pairs]  # what was padded is left over


def adaptive_step(name, before, moments, mean, learning_rate, beta1, beta2, tau):
    """FedAdam or FedYogi on one array: (weights, (m, v)). moments: (m, v) before, None at first."""
    first, second = moments or ([0.0] * len(before), [float32(tau * tau)] * len(before))
    weights, m_out, v_out = [], [], []
    for w, old_m, old_v, x in zip(before, first, second, mean, strict=False):
        m = float32(old_m * beta1 + x * (1.0 - beta1))
        if name == "fedadam":
            v = float32(old_v * beta2 + (x * x) * (1.0 - beta2))
        else:
            sign = (old_v > x * x) - (old_v < x * x)
            v = float32(old_v - ((x * x) * (1.0 - beta2)) * sign)
        weights.append(float32(w + learning_rate * (m / (math.sqrt(v) + tau))))
        m_out.append(m)
        v_out.append(v)
    return weights, (m_out, v_out)


def joined_digest(weights, state):
    """Of a model with a state, from the digest of each (`weights_digest`)."""
    return sha256(f"fedprint-model-and-state-1:{weights}:{state}".encode()).hex()


def mean_update(total, numbers, seed, weight_of_survivors):
    """Mean of the updates, float64 (padded,), from the sum mod 2^m."""
    m, block = numbers["modulus_bits"], block_of(numbers["dimension"])
    signed = [v - 2**m if v >= 2 ** (m - 1) else v for v in total]
    columns = columns_of(numbers["dimension"])
    unit = 1.0 / (scale_of(numbers) * weight_of_survivors * math.sqrt(block))
    signs = signs_of(seed, len(signed))
    turned = [0.0] * len(signed)
    for c in range(columns):
        whole = [int(v) for v in whole_hadamard(signed[c::columns])]
        turned[c::columns] = [float(v) * unit for v in whole]
    return [s * x for s, x in zip(signs, turned, strict=True)]


def whole_hadamard(column):
    """H times a column of whole numbers (Sylvester order), in whole numbers."""
    if len(column) == 1:
        return column
    half = len(column) // 2
    first, second = whole_hadamard(column[:half]), whole_hadamard(column[half:])
    plus = [a + b for a, b in zip(first, second, strict=True)]
    return plus + [a - b for a, b in zip(first, second, strict=True)]


def float32(value):
    """Rounded once to float32, to the nearest, ties to even."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def weights_digest(weights):
    """SHA-256 of a model: name -> (shape, values)."""
    data = b"fedprint-weights-1"
    for name in sorted(weights):
        shape, values = weights[name]
        header = f"{len(name)}:{name}:{shape}".encode()
        data += len(header).to_bytes(8, "big") + header
        data += struct.pack(f"<{len(values)}f", *values)
    return sha256(data).hex()


def pack(vector, m):
    number = 0
    for v in reversed(vector):
        number = (number << m) | v
    return number.to_bytes(m * len(vector) // 8, "little")


def unpack(data, m):
    number = int.from_bytes(data, "little")
    return [(number >> (m * e)) & (2**m - 1) for e in range(len(data) * 8 // m)]


# ---- Shamir over GF(2^8), polynomial 0x11b


def gf_multiply(a, b):
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= 0x11B
        b >>= 1
    return product


def gf_inverse(a):
    for b in range(1, 256):
        if gf_multiply(a, b) == 1:
            return b
    raise ZeroDivisionError("zero has no inverse")


def split(secrets, threshold, receivers, coefficients):
    """shares[r][s]: 32 bytes of secret s for the receiver with index r (x = r + 1)."""
    shares = []
    for r in range(receivers):
        mine = []
        for s, secret in enumerate(secrets):
            share = bytearray(secret)
            for byte in range(32):
                power = 1
                for k in range(1, threshold):
                    power = gf_multiply(power, r + 1)
                    c = coefficients[(s * (threshold - 1) + (k - 1)) * 32 + byte]
                    share[byte] ^= gf_multiply(c, power)
            mine.append(bytes(share))
        shares.append(mine)
    return shares


def rebuild(shares):
    """Lagrange at 0. shares: receiver index from 0 -> 32 bytes, exactly t of them."""
    secret = bytearray(32)
    for r, share in shares.items():
        basis = 1
        for other in shares:
            if other != r:
                x, y = other + 1, r + 1
                basis = gf_multiply(basis, gf_multiply(x, gf_inverse(x ^ y)))
        for byte in range(32):
            secret[byte] ^= gf_multiply(share[byte], basis)
    return bytes(secret)


# ---- Submission


def pair_seed(secret, tr):
    return KDF(secret, tr, "mask")


def mask(vector, m, i, pair_seeds, self_seed):
    """masked_i; pair_seeds: other site -> seed."""
    total = list(vector)
    for j, seed in pair_seeds.items():
        sign = 1 if j > i else -1
        for e, word in enumerate(PRG(seed, len(total))):
            total[e] += sign * word
    for e, word in enumerate(PRG(self_seed, len(total))):
        total[e] += word
    return [x % 2**m for x in total]


def share_key(secret, tr, sender, receiver, salt):
    return KDF(secret, tr, "share", sender, receiver, salt)


def share_commitment(tr, i, peer, receiver, share):
    """peer None: of the self seed; else of pair_seed(i, peer)."""
    if peer is None:
        return H("share-of-self", tr, i, receiver, share)
    return H("share-of-pair", tr, i, peer, receiver, share)


def seed_commitment(tr, i, peer, seed):
    return H("self-seed", tr, i, seed) if peer is None else H("pair-seed", tr, i, peer, seed)


def row_data(tr, i, r, commitments):
    return framed(NAME, "share", tr, i, r, commitments)


def submit(vector, m, i, sites, threshold, secrets, tr, entropy):
    """Everything of site i's submission. secrets: site (i included) -> pair_secret(i, site)."""
    n = len(sites)
    others = [j for j in sites if j != i]
    seeds = {j: pair_seed(secrets[j], tr) for j in others}
    self_seed = entropy(32)
    salt = entropy(32)
    coefficients = entropy(n * (threshold - 1) * 32)
    order = [None, *others]
    values = [self_seed, *[seeds[j] for j in others]]
    shares = split(values, threshold, n, coefficients)
    rows, keys = [], []
    for r, receiver in enumerate(sites):
        commitments = b"".join(
            share_commitment(tr, i, peer, receiver, share)
            for peer, share in zip(order, shares[r], strict=True)
        )
        key = share_key(secrets[receiver], tr, i, receiver, salt)
        sealed = ChaCha20Poly1305(key).encrypt(
            bytes(12), b"".join(shares[r]), row_data(tr, i, receiver, commitments)
        )
        rows.append(commitments + sealed)
        keys.append(key)
    masked = mask(vector, m, i, seeds, self_seed)
    packed = pack(masked, m)
    commitments = [
        seed_commitment(tr, i, peer, value) for peer, value in zip(order, values, strict=True)
    ]
    return {
        "self_seed": self_seed,
        "salt": salt,
        "coefficients": coefficients,
        "pair_seeds": seeds,
        "shares": shares,
        "share_keys": keys,
        "seed_commitments": commitments,
        "rows": rows,
        "masked": masked,
        "packed": packed,
        "body": packed + salt + b"".join(commitments) + b"".join(rows),
    }


def row_of(body, m, padded, n, r):
    """(salt, row of the receiver with index r) of a submission's body."""
    packed = m * padded // 8
    salt = body[packed : packed + 32]
    size = 64 * n + 16
    start = packed + 32 + 32 * n + r * size
    return salt, body[start : start + size]


# ---- Opening


def open_row(tr, dealer, receiver, sites, salt, row, secret):
    """The n shares of a row by peer (None: self seed), or "unreadable" or "accused"."""
    n = len(sites)
    commitments, sealed = row[: 32 * n], row[32 * n :]
    key = share_key(secret, tr, dealer, receiver, salt)
    try:
        plain = ChaCha20Poly1305(key).decrypt(
            bytes(12), sealed, row_data(tr, dealer, receiver, commitments)
        )
    except InvalidTag:
        return "unreadable"
    order = [None, *[j for j in sites if j != dealer]]
    shares = {peer: plain[32 * s : 32 * s + 32] for s, peer in enumerate(order)}
    for s, peer in enumerate(order):
        if (
            share_commitment(tr, dealer, peer, receiver, shares[peer])
            != commitments[32 * s : 32 * s + 32]
        ):
            return "accused"
    return shares


def open_reply(tr, i, sites, survivors, missing, rows, salts, secrets):
    """Body of the reply of i, and whom it names: (body, unreadable, accused)."""
    dropped = [j for j in sites if j not in survivors]
    read = {j: open_row(tr, j, i, sites, salts[j], rows[j], secrets[j]) for j in survivors}
    good = [j for j in survivors if isinstance(read[j], dict)]
    body = b"".join(read[j][None] for j in good)
    body += b"".join(pair_seed(secrets[j], tr) for j in dropped)
    for v in missing:
        if v in good:
            body += b"".join(read[v][j] for j in dropped)
    unreadable = [j for j in survivors if read[j] == "unreadable"]
    accused = [j for j in survivors if read[j] == "accused"]
    return body, unreadable, accused


def total_of(masked, m, survivors, dropped, self_seeds, pair_seeds):
    """Strip the masks. masked, self_seeds: by survivor; pair_seeds: by (survivor, dropped)."""
    size = len(masked[survivors[0]])
    total = [0] * size
    for i in survivors:
        for e in range(size):
            total[e] += masked[i][e]
        for e, word in enumerate(PRG(self_seeds[i], size)):
            total[e] -= word
        for j in dropped:
            sign = 1 if j > i else -1
            for e, word in enumerate(PRG(pair_seeds[i, j], size)):
                total[e] -= sign * word
    return [x % 2**m for x in total]


# ---- Verifying the sum


def challenge_key(tr, statement_digest):
    return H("challenge", tr, statement_digest)


def subset_sums(key, vector, m):
    """The 128 sums of a vector over the challenge's subsets."""
    padded = len(vector)
    data = stream(key, 16 * padded)
    sums = [0] * 128
    for g in range(16):
        for e in range(padded):
            byte = data[g * padded + e]
            for b in range(8):
                if byte >> b & 1:
                    sums[8 * g + b] += vector[e]
    return [x % 2**m for x in sums]


def equation_holds(key, m, answers, published, survivors, dropped, self_seeds, pair_seeds):
    """answers: by survivor; whether they fit the published sum and the opened masks."""
    size = len(published)
    left = [sum(answers[i][s] for i in survivors) for s in range(128)]
    for i in survivors:
        for s, value in enumerate(subset_sums(key, PRG(self_seeds[i], size), m)):
            left[s] -= value
        for j in dropped:
            sign = 1 if j > i else -1
            for s, value in enumerate(subset_sums(key, PRG(pair_seeds[i, j], size), m)):
                left[s] -= sign * value
    return [x % 2**m for x in left] == subset_sums(key, published, m)


# ---- Signed headers (docstring of shared_model/protocol.py)


def seal(message, signing_key):
    """header = signature over framed("fedprint-1", kind, canonical JSON) || canonical JSON."""
    data = cj(message)
    key = Ed25519PrivateKey.from_private_bytes(signing_key)
    return key.sign(framed("fedprint-1", message["kind"], data)) + data


# ---- Ledgers


def entry_digest(entry):
    """Of a ledger's entry without its signature; hexadecimal."""
    return sha256(framed("fedprint-1", "ledger-entry", cj(entry))).hex()


def entry_line(entry, signing_key):
    """The entry with its signature, as it travels."""
    key = Ed25519PrivateKey.from_private_bytes(signing_key)
    signature = key.sign(framed("fedprint-1", "ledger-entry", cj(entry)))
    return cj({**entry, "signature": signature.hex()})


def ledger_head(head, link):
    """The head after an entry with this digest; head 0 is 64 zeros."""
    parts = bytes.fromhex(head), bytes.fromhex(link)
    return sha256(framed("fedprint-1", "ledger-head", *parts)).hex()


def signed_head(site, length, head, signing_key):
    """What others keep of a ledger."""
    key = Ed25519PrivateKey.from_private_bytes(signing_key)
    body = cj({"site": site, "length": length, "head": head})
    signature = key.sign(framed("fedprint-1", "ledger-head", body))
    return {"length": length, "head": head, "signature": signature.hex()}


def agreed(survivors, submissions, heads):
    """What an agreement signs; hexadecimal."""
    ledgers = [[one["length"], one["head"]] for one in heads]
    return sha256(cj(["agreed", survivors, submissions, ledgers])).hex()


def identity_public(signing_key):
    return Ed25519PrivateKey.from_private_bytes(signing_key).public_key().public_bytes_raw()
