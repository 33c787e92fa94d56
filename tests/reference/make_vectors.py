"""Makes the known answers of the secure sum, tests/vectors/*.json, from the reference alone.

    python tests/reference/make_vectors.py            writes the files
    python tests/reference/make_vectors.py --check    fails if a file is not what this makes

Source of every random byte: SHAKE-256 of "fedprint known-answer vectors 1/" + label, read from its
start; the label stands in the file beside the value, or is the one of `Entropy` below.

Quantisation in the core may run in float32, here it runs in float64. The inputs are chosen so that
both give the same integers: elements are dyadic, sums of a Hadamard column stay below 2^24 steps,
sqrt(B) is a power of two (B = 64, B = 4096), and the norm bound makes the scale a power of two.
Only adding the 24-bit rounding fraction may round in float32, and `same_in_float32` shows that for
these seeds it changes nothing. The cases marked `"within": 1` (a norm above the bound) need a
division and are compared within one unit.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import secure_sum_reference as ref

FOLDER = Path(__file__).resolve().parents[1] / "vectors"
SOURCE = "python tests/reference/make_vectors.py, from docs/secure-sum-wire.md"
LABEL = "fedprint known-answer vectors 1/"


def fixed(label, length):
    return hashlib.shake_256((LABEL + label).encode()).digest(length)


class Entropy:
    """`entropy(length)`: the next bytes of SHAKE-256 of a label."""

    def __init__(self, label):
        self.label, self.used = label, 0

    def __call__(self, length):
        data = fixed(self.label, self.used + length)[self.used :]
        self.used += length
        return data


def integers(label, count, bound):
    """`count` whole numbers in -bound ... bound (two bytes each, little-endian, modulo)."""
    data = fixed(label, 2 * count)
    words = [int.from_bytes(data[2 * k : 2 * k + 2], "little") for k in range(count)]
    return [word % (2 * bound + 1) - bound for word in words]


def u32(vector):
    return b"".join(v.to_bytes(4, "little") for v in vector)


def digest(data):
    return ref.sha256(data).hex()


def words_digest(vector):
    """SHA-256 of the words as little-endian 32-bit integers."""
    return digest(u32(vector))


def bound_for(bits, padded, scale):
    """A norm bound with which the scale is this power of two."""
    bound = ref.half_of(bits) * math.sqrt(padded) / (6 * scale)
    assert ref.half_of(bits) * math.sqrt(padded) / (6 * bound) == scale
    return bound


def same_in_float32(rotated, scale, words, half, expected):
    """Whether float32 arithmetic of step 4 gives the same integers."""
    x = np.array(rotated, np.float32)
    assert (x.astype(np.float64) == np.array(rotated)).all(), "an input is not exact"
    u = (np.array(words, np.uint32) >> 8).astype(np.float32) * np.float32(2.0**-24)
    q = np.clip(np.floor(x * np.float32(scale) + u), -half, half).astype(np.int64)
    return q.tolist() == expected


# ---- primitives.json


def primitives():
    seed = fixed("prg", 32)
    long = ref.PRG(seed, 8192)
    secret, salt = fixed("kdf secret", 32), fixed("kdf salt", 32)
    packing = []
    for m in (9, 16, 20, 23, 24, 25, 31, 32):
        data = fixed(f"pack {m}", 4 * 64)
        vector = [int.from_bytes(data[4 * k : 4 * k + 4], "little") % 2**m for k in range(64)]
        vector[0], vector[-1] = 2**m - 1, 2**m - 1
        packing.append({"modulus_bits": m, "vector": vector, "packed": ref.pack(vector, m).hex()})
        assert ref.unpack(ref.pack(vector, m), m) == vector
    threshold, n = 3, 5
    secrets = [fixed("shamir secret 0", 32), bytes(32), b"\xff" * 32]
    coefficients = fixed("shamir coefficients", len(secrets) * (threshold - 1) * 32)
    shares = ref.split(secrets, threshold, n, coefficients)
    for chosen in ((0, 1, 2), (2, 4, 1)):
        for s, value in enumerate(secrets):
            assert ref.rebuild({r: shares[r][s] for r in chosen}) == value
    return {
        "framed": [
            {"parts": parts, "framed": ref.framed(*parts).hex()}
            for parts in ([], [""], ["a", "b"], ["ab"], ["ab", "aba"], ["aba", "ba"], ["Zürich"])
        ],
        "hash": [
            {"tag": "tag", "parts": ["ab", "aba"], "hash": ref.H("tag", "ab", "aba").hex()},
            {"tag": "tag", "parts": ["aba", "ba"], "hash": ref.H("tag", "aba", "ba").hex()},
            {"tag": "tag", "parts": [], "hash": ref.H("tag").hex()},
        ],
        "kdf": {
            "secret": secret.hex(),
            "salt": salt.hex(),
            "tag": "mask",
            "parts": ["alpha", "beta"],
            "key": ref.KDF(secret, salt, "mask", "alpha", "beta").hex(),
            "key_without_parts": ref.KDF(secret, salt, "mask").hex(),
        },
        "keystream": {
            "seed": seed.hex(),
            "first_words": long[:32],
            "sha256_of_8192_words": words_digest(long),
        },
        "packing": packing,
        "shamir": {
            "threshold": threshold,
            "receivers": n,
            "secrets": [value.hex() for value in secrets],
            "coefficients": coefficients.hex(),
            "shares": [[share.hex() for share in mine] for mine in shares],
        },
        "gf256": {
            "products_sha256": digest(
                bytes(ref.gf_multiply(a, b) for a in range(256) for b in range(256))
            ),
            "some": [[0x57, 0x83, 0xC1], [0x57, 0x13, 0xFE], [2, 0x80, 0x1B]],
        },
    }


# ---- numbers.json


def quantised(name, update, numbers, seed, weight, rounding_seed, within=0):
    v, clipped, non_finite, scaled = ref.quantise(update, numbers, seed, weight, rounding_seed)
    rotated = ref.rotate(ref.bounded(update, numbers["norm_bound"])[0], numbers, seed)
    words = ref.PRG(rounding_seed, len(rotated))
    m, half = numbers["modulus_bits"], ref.half_of(numbers["bits"])
    q = [(x - 2**m if x >= 2 ** (m - 1) else x) // weight for x in v]
    if not within:
        assert same_in_float32(rotated, ref.scale_of(numbers), words, half, q), name
    return {
        "name": name,
        "update": [repr(x) for x in update],
        "numbers": numbers,
        "rotation_seed": seed.hex(),
        "weight": weight,
        "rounding_seed": rounding_seed.hex(),
        "scale": ref.scale_of(numbers),
        "rotated": rotated,
        "vector": v,
        "clipped": clipped,
        "non_finite": non_finite,
        "scaled": scaled,
        "within": within,
    }


def numbers_file():
    seed = ref.rotation_seed("spring", 3, "ab" * 32)
    base = {
        "dimension": 40,
        "bits": 20,
        "modulus_bits": 24,
        "norm_bound": bound_for(20, 64, 1024.0),
    }
    plain = [k / 1024 for k in integers("numbers plain", 40, 4096)]
    odd = list(plain)
    odd[3], odd[4], odd[39] = math.nan, math.inf, -math.inf
    signs = ref.signs_of(seed, 64)
    # Signs times one Hadamard row: rotated, one coordinate holds all of it (or 40 parts of 64).
    row = [(-1) ** bin(5 & e).count("1") for e in range(64)]
    peaked = [100.0 * signs[e] * row[e] for e in range(40)]
    full = {**base, "dimension": 64}
    clipping = [80.0 * signs[e] * row[e] for e in range(64)]  # norm 640 of 682: over 6 sigma
    big = [1024.0 * x for x in plain]
    cases = [
        quantised("plain", plain, base, seed, 1, fixed("rounding 0", 32)),
        quantised("weight 8", plain, base, seed, 8, fixed("rounding 1", 32)),
        quantised("zero", [0.0] * 40, base, seed, 3, fixed("rounding 2", 32)),
        quantised(
            "one element",
            [1.0],
            {**base, "dimension": 1, "norm_bound": 50.0},
            seed,
            1,
            fixed("rounding 3", 32),
            within=1,
        ),
        quantised("non-finite elements are zero", odd, base, seed, 1, fixed("rounding 4", 32)),
        quantised("one coordinate takes most", peaked, base, seed, 1, fixed("rounding 5", 32)),
        quantised("one coordinate is clipped", clipping, full, seed, 2, fixed("rounding 6", 32)),
        quantised(
            "one coordinate is clipped from below",
            [-x for x in clipping],
            full,
            seed,
            2,
            fixed("rounding 7", 32),
        ),
        quantised(
            "a norm above the bound is scaled to it",
            big,
            base,
            seed,
            1,
            fixed("rounding 8", 32),
            within=1,
        ),
        quantised(
            "odd number of bits",
            plain,
            {**base, "bits": 21, "modulus_bits": 25, "norm_bound": bound_for(21, 64, 2048.0)},
            seed,
            1,
            fixed("rounding 9", 32),
        ),
    ]
    total = [1234567, 2**24 - 5, 2**23, 2**23 - 1, *([0] * 60)]
    return {
        "rotation_seed": {
            "run": "spring",
            "round": 3,
            "model_digest": "ab" * 32,
            "seed": seed.hex(),
            "signs_of_64": signs,
        },
        "shapes": [
            {
                "dimension": d,
                "block": ref.block_of(d),
                "columns": ref.columns_of(d),
                "padded": ref.padded_of(d),
                "scale_at_20_bits_and_norm_1": ref.scale_of(
                    {"dimension": d, "bits": 20, "norm_bound": 1.0}
                ),
            }
            for d in (1, 31, 32, 33, 40, 4095, 4096, 4097, 5000, 1_000_000)
        ],
        "modulus_bits": [
            {"bits": b, "total_weight": w, "modulus_bits": ref.modulus_bits_of(b, w)}
            for b, w in (
                (8, 1),
                (20, 2),
                (20, 3),
                (20, 4),
                (20, 5),
                (20, 80),
                (20, 2040),
                (24, 256),
            )
        ],
        "quantise": cases,
        "mean": {
            "numbers": base,
            "rotation_seed": seed.hex(),
            "sum": total,
            "total_weight": 6,
            "mean": ref.mean(total, base, seed, 6),
        },
    }


# ---- rounds: one file each


def epoch_of(sites, roster_digest, number):
    """Epoch and identity keys of the sites, and the signed public keys."""
    secret = {site: fixed(f"epoch key {site}", 32) for site in sites}
    identity = {site: fixed(f"identity key {site}", 32) for site in sites}
    public = {site: ref.public_key(secret[site]) for site in sites}
    headers = {
        site: ref.seal(
            {
                "kind": "epoch-key",
                "version": 3,
                "site": site,
                "epoch": number,
                "roster_digest": roster_digest,
                "public_key": public[site].hex(),
            },
            identity[site],
        )
        for site in sites
    }
    entries = [
        {"site": site, "public_key": public[site].hex(), "signature": headers[site][:64].hex()}
        for site in sites
    ]
    return secret, identity, headers, entries


def ledger_of(site, identity, request, reply):
    """Signed head, lines and links of a site's ledger: opened, booked, answered."""
    privacy, plan = reply["privacy"], request["privacy"]
    entries = [
        {
            "kind": "opened",
            "ledger": digest(b"ledger of " + site.encode())[:32],
            "identity_key": ref.identity_public(identity).hex(),
            "unit": "one patient at one hospital",
            "adjacency": "add or remove one patient",
            "delta": privacy["delta"],
            "software": "fedprint 0.1.0",
            "time_s": 1_790_000_000,
        },
        {
            "kind": "booked",
            "run": reply["run"],
            "round": reply["round"],
            "purpose": request["purpose"],
            **plan,
            "declared_patients": reply["declared_patients"],
            "delta": privacy["delta"],
            "noise": reply["noise"],
            "private": reply["private"],
            "model_in": request["model_digest"],
            "request_digest": reply["request_digest"],
            "code_digest": request["code_digest"],
            "roster_digest": request["sum"]["roster_digest"],
            "transcript": reply["transcript"],
            "participants": len(request["participants"]),
            "threshold": request["sum"]["threshold"],
            "colluding_sites": 0,
            "minimum_contributors": request["minimum_contributors"],
            "dimension": 0,
            "limit_lifetime": 8.0,
            "limit_run": 8.0,
            "epsilon_lifetime": privacy["epsilon"],
            "epsilon_run": privacy["epsilon"],
            "outsider_epsilon_lifetime": privacy["epsilon"],
            "time_s": 1_790_000_001,
        },
        {
            "kind": "answered",
            "booking": 2,
            "run": reply["run"],
            "round": reply["round"],
            "update_digest": reply["body_digest"],
        },
    ]
    head, lines, links = "0" * 64, [], []
    for number, fields in enumerate(entries, 1):
        entry = {"version": 1, "site": site, "sequence": number, **fields}
        lines.append(ref.entry_line(entry, identity).decode())
        links.append(ref.entry_digest(entry))
        head = ref.ledger_head(head, links[-1])
    return ref.signed_head(site, len(entries), head, identity), lines, links


def make_round(name, weights, threshold, dimension, survivors, missing, updates, scale, epoch):
    """A whole round; returns the file's content. Long values become digests if d is large."""
    sites = sorted(weights)
    short = dimension <= 64
    dropped = [site for site in sites if site not in survivors]
    roster_digest = digest(b"roster of " + name.encode())
    secret, identity, epoch_headers, entries = epoch_of(sites, roster_digest, epoch)
    run_key = fixed("run key", 32)
    bits = 20
    numbers = {
        "dimension": dimension,
        "bits": bits,
        "modulus_bits": ref.modulus_bits_of(bits, sum(weights.values())),
        "norm_bound": bound_for(bits, ref.padded_of(dimension), scale),
    }
    m, padded = numbers["modulus_bits"], ref.padded_of(dimension)
    common = {"version": 3, "run": "spring", "round": 3}
    privacy = {
        "sample_rate": 0.125,
        "noise_multiplier": 1.5,
        "clipping_norm": 1.0,
        "steps": 4,
        "mode": "local",
    }
    training = {
        "segments": 2,
        "patch_masks": 1,
        "learning_rate": 0.001,
        "optimiser": "adam",
        "trainable": "head",
        "cross_modal_weight": 1.0,
        "alignment_weight": 0.1,
        "contrast_weight": 0.0,
    }
    configuration = {
        "config_digest": digest(b"config"),
        "privacy": privacy,
        "training": training,
        "purpose": "pretrain",
        "minimum_contributors": 2,
        "preset": "tiny",
        "server_step": "fedavg",
        "server_learning_rate": 0.5,
        "rounds": 20,
        "bookings": 23,
        "code_digest": digest(b"code"),
    }
    request = {
        **common,
        **configuration,
        "kind": "train-request",
        "start": 1,
        "model_digest": digest(b"model"),
        "body_digest": digest(b"body of the model"),
        "participants": [
            {"site": site, "declared_patients": 1000 * weights[site]} for site in sites
        ],
        "sum": {
            "aggregation": "secure-sum",
            "roster_digest": roster_digest,
            "threshold": threshold,
            "epoch": epoch,
            "epoch_keys": entries,
            "dimension": dimension,
            "bits": bits,
            "modulus_bits": m,
            "norm_bound": numbers["norm_bound"],
        },
        "ledger_heads": [],
        "deadline_s": 3600.0,
        "software": "fedprint 0.1.0",
    }
    fields = {
        "run": "spring",
        "round": 3,
        "participants": sites,
        "model_digest": request["model_digest"],
        "configuration_digest": digest(ref.cj({**configuration, "aggregation": "secure-sum"})),
        "numbers": numbers,
        "roster_digest": roster_digest,
        "epoch": epoch,
        "epoch_keys_digest": ref.epoch_keys_digest(entries).hex(),
        "threshold": threshold,
        "weights": [weights[site] for site in sites],
        "mode": privacy["mode"],
    }
    tr = ref.transcript(fields)
    seed = ref.rotation_seed("spring", 3, request["model_digest"])
    train_request = ref.seal(request, run_key)

    pair_secrets = {
        i: {
            j: ref.pair_secret(
                secret[i], ref.public_key(secret[j]), bytes.fromhex(roster_digest), epoch, i, j
            )
            for j in sites
        }
        for i in sites
    }
    for i in sites:
        for j in sites:
            assert pair_secrets[i][j] == pair_secrets[j][i]

    vectors, subs, headers, heads, links = {}, {}, {}, {}, {}
    site_parts = []
    for i in sites:
        rounding = fixed(f"{name} rounding {i}", 32)
        case = quantised(i, updates[i], numbers, seed, weights[i], rounding)
        vectors[i] = case["vector"]
        sub = subs[i] = ref.submit(
            vectors[i],
            m,
            i,
            sites,
            threshold,
            pair_secrets[i],
            tr,
            Entropy(f"{name} submission {i}"),
        )
        reply = {
            **common,
            "kind": "train-reply",
            "site": i,
            "request_digest": digest(train_request),
            "transcript": tr.hex(),
            "body_digest": digest(sub["body"]),
            "declared_patients": 1000 * weights[i],
            "weight": weights[i],
            "noise": "system entropy",
            "private": True,
            "privacy": {
                "epsilon": 1.25,
                "delta": 1e-05,
                "unit": "one patient at one hospital",
                "trust_model": "local",
                "colluding_sites": None,
                "outsider_epsilon": None,
            },
            "software": "fedprint 0.1.0",
        }
        heads[i], lines, links[i] = ledger_of(i, identity[i], request, reply)
        headers[i] = ref.seal({**reply, "ledger": {**heads[i], "entries": lines}}, identity[i])
        part = {
            "site": i,
            "weight": weights[i],
            "epoch_private_key": secret[i].hex(),
            "identity_private_key": identity[i].hex(),
            "rounding_seed": rounding.hex(),
            "entropy_label": f"{name} submission {i}",
            "clipped": case["clipped"],
            "pair_secrets": {j: pair_secrets[i][j].hex() for j in sites},
            "pair_seeds": {j: s.hex() for j, s in sub["pair_seeds"].items()},
            "self_seed": sub["self_seed"].hex(),
            "salt": sub["salt"].hex(),
            "share_keys": {j: k.hex() for j, k in zip(sites, sub["share_keys"], strict=True)},
            "seed_commitments": [c.hex() for c in sub["seed_commitments"]],
            "ledger_head": heads[i]["head"],
            "ledger_links": links[i],
            "body_sha256": digest(sub["body"]),
            "body_bytes": len(sub["body"]),
            "packed_sha256": digest(sub["packed"]),
            "vector_sha256": words_digest(vectors[i]),
            "masked_sha256": words_digest(sub["masked"]),
            "self_mask_sha256": words_digest(ref.PRG(sub["self_seed"], padded)),
            "pair_masks_sha256": {
                j: words_digest(ref.PRG(s, padded)) for j, s in sub["pair_seeds"].items()
            },
            "shares_sha256": {
                receiver: digest(b"".join(sub["shares"][r])) for r, receiver in enumerate(sites)
            },
            "rows_sha256": {receiver: digest(sub["rows"][r]) for r, receiver in enumerate(sites)},
        }
        if short:
            part |= {
                "update": [repr(x) for x in updates[i]],
                "vector": vectors[i],
                "masked": sub["masked"],
                "packed": sub["packed"].hex(),
                "coefficients": sub["coefficients"].hex(),
                "shares": {
                    receiver: [share.hex() for share in sub["shares"][r]]
                    for r, receiver in enumerate(sites)
                },
                "rows": {receiver: sub["rows"][r].hex() for r, receiver in enumerate(sites)},
                "body": sub["body"].hex(),
            }
        else:
            part |= {
                "update_label": f"{name} update {i}",
                "vector_first": vectors[i][:16],
                "masked_first": sub["masked"][:16],
                "row_to_first": sub["rows"][0].hex(),
            }
        site_parts.append(part)

    submissions = [digest(headers[i]) for i in survivors]
    agree_body = ref.cj({i: links[i] for i in survivors if i != survivors[0]})
    agree = {
        **common,
        "kind": "agree-request",
        "transcript": tr.hex(),
        "survivors": survivors,
        "submissions": submissions,
        "heads": [heads[i] for i in survivors],
        "body_digest": digest(agree_body),
    }
    agreed = ref.agreed(survivors, submissions, agree["heads"])
    signers = [site for site in survivors if site not in missing]
    agreements = {
        i: ref.seal(
            {
                **common,
                "kind": "agreement",
                "site": i,
                "transcript": tr.hex(),
                "agreed": agreed,
            },
            identity[i],
        )
        for i in signers
    }
    openings, opens, replies = {}, {}, {}
    n = len(sites)
    for i in signers:
        salts, rows = {}, {}
        for j in survivors:
            salts[j], rows[j] = ref.row_of(subs[j]["body"], m, padded, n, sites.index(i))
        request_body = b"".join(salts[j] + rows[j] for j in survivors)
        opens[i] = ref.seal(
            {
                **common,
                "kind": "open-request",
                "transcript": tr.hex(),
                "survivors": survivors,
                "submissions": submissions,
                "missing": missing,
                "signers": signers,
                "agreements": [agreements[s].hex() for s in signers],
                "body_digest": digest(request_body),
            },
            run_key,
        )
        body, unreadable, accused = ref.open_reply(
            tr, i, sites, survivors, missing, rows, salts, pair_secrets[i]
        )
        assert unreadable == accused == []
        openings[i] = {
            "request_body_sha256": digest(request_body),
            "request_body": request_body.hex() if short else None,
            "body": body.hex(),
        }
        replies[i] = ref.seal(
            {
                **common,
                "kind": "shares-reply",
                "site": i,
                "transcript": tr.hex(),
                "request_digest": digest(opens[i]),
                "unreadable": [],
                "accused": [],
                "body_digest": digest(body),
            },
            identity[i],
        )
    self_seeds, pair_seeds = {}, {}
    for j in survivors:
        size = len(survivors)
        at = 32 * survivors.index(j)
        chosen = signers[:threshold]
        body_of = {i: bytes.fromhex(openings[i]["body"]) for i in signers}
        self_seeds[j] = ref.rebuild({sites.index(i): body_of[i][at : at + 32] for i in chosen})
        assert self_seeds[j] == subs[j]["self_seed"]
        for k, d in enumerate(dropped):
            if j in missing:
                at = 32 * (size + len(dropped) + missing.index(j) * len(dropped) + k)
                pair_seeds[j, d] = ref.rebuild(
                    {sites.index(i): body_of[i][at : at + 32] for i in chosen}
                )
            else:
                pair_seeds[j, d] = body_of[j][32 * (size + k) : 32 * (size + k + 1)]
            assert pair_seeds[j, d] == subs[j]["pair_seeds"][d]
    total = ref.total_of(
        {i: subs[i]["masked"] for i in survivors}, m, survivors, dropped, self_seeds, pair_seeds
    )
    assert total == [
        sum(column) % 2**m for column in zip(*[vectors[i] for i in survivors], strict=True)
    ]
    weight = sum(weights[i] for i in survivors)
    average = ref.mean(total, numbers, seed, weight)
    packed_sum = ref.pack(total, m)
    statement = ref.cj(
        {
            "run": "spring",
            "round": 3,
            "transcript": tr.hex(),
            "participants": sites,
            "survivors": survivors,
            "submissions": submissions,
            "kind": "sum-statement",
            "version": 3,
            "modulus_bits": m,
            "padded": padded,
            "sum_digest": digest(packed_sum),
            "self_seeds": [self_seeds[i].hex() for i in survivors],
            "pair_seeds": (
                [[pair_seeds[i, d].hex() for d in dropped] for i in survivors] if dropped else []
            ),
        }
    )
    key = ref.challenge_key(tr, ref.sha256(statement))
    answers = {i: ref.subset_sums(key, subs[i]["masked"], m) for i in survivors}
    assert ref.equation_holds(key, m, answers, total, survivors, dropped, self_seeds, pair_seeds)
    wrong = [*total[:-1], (total[-1] + 1) % 2**m]
    assert not ref.equation_holds(
        key, m, answers, wrong, survivors, dropped, self_seeds, pair_seeds
    )
    before = [k / 256 for k in integers(f"{name} model before", dimension, 1024)]
    after = ref.server_step(before, total, numbers, seed, weight, 0.5)
    shape = (dimension,)
    model_out = ref.weights_digest({"frozen": ((2,), [1.0, 2.0]), "trained": (shape, after)})
    closing = {"transcript": tr.hex(), "statement_digest": digest(statement)}
    close_replies = {
        i: ref.seal(
            {**common, "kind": "close-reply", "site": i, **closing, "sums": answers[i]},
            identity[i],
        )
        for i in survivors
    }
    verify_body = ref.framed(statement, packed_sum, *[close_replies[i] for i in survivors])
    messages = {
        "train-request": train_request,
        "train-reply": headers[sites[0]],
        "refusal": ref.seal(
            {
                **common,
                "kind": "refusal",
                "site": sites[-1],
                "request_digest": digest(train_request),
                "reason": "budget",
            },
            identity[sites[-1]],
        ),
        "epoch-request": ref.seal(
            {
                "kind": "epoch-request",
                "version": 3,
                "epoch": epoch,
                "roster_digest": roster_digest,
                "body_digest": digest(b"signed roster"),
                "plan": {
                    **configuration,
                    "run": "spring",
                    "aggregation": "secure-sum",
                },
                "software": "fedprint 0.1.0",
            },
            run_key,
        ),
        "epoch-key": epoch_headers[sites[0]],
        "agree-request": ref.seal(agree, run_key),
        "agreement": agreements[signers[0]],
        "open-request": opens[signers[0]],
        "shares-reply": replies[signers[0]],
        "close-request": ref.seal({**common, "kind": "close-request", **closing}, run_key),
        "close-reply": close_replies[signers[0]],
        "verify-request": ref.seal(
            {
                **common,
                "kind": "verify-request",
                **closing,
                "body_digest": digest(verify_body),
            },
            run_key,
        ),
        "sum-receipt": ref.seal(
            {
                **common,
                "kind": "sum-receipt",
                "site": signers[0],
                **closing,
                "model_out": model_out,
            },
            identity[signers[0]],
        ),
    }
    content = {
        "run_private_key": run_key.hex(),
        "roster_digest": roster_digest,
        "epoch": epoch,
        "epoch_keys": entries,
        "epoch_keys_digest": fields["epoch_keys_digest"],
        "transcript_fields": fields,
        "transcript": tr.hex(),
        "rotation_seed": seed.hex(),
        "rotation_signs_sha256": digest(
            bytes(1 if s < 0 else 0 for s in ref.signs_of(seed, padded))
        ),
        "threshold": threshold,
        "survivors": survivors,
        "dropped": dropped,
        "missing": missing,
        "signers": signers,
        "sites": site_parts,
        "submissions": submissions,
        "agreed": agreed,
        "agree_body": agree_body.decode(),
        "openings": openings,
        "sum_sha256": words_digest(total),
        "packed_sum_sha256": digest(packed_sum),
        "weight_of_survivors": weight,
        "mean_first": average[:16],
        "mean_square_sum": math.fsum(x * x for x in average),
        "server_learning_rate": 0.5,
        "model_before_label": f"{name} model before",
        "model_before_first": before[:16],
        "model_after_first": after[:16],
        "model_out": model_out,
        "statement": statement.decode(),
        "statement_digest": digest(statement),
        "challenge_key": key.hex(),
        "subset_sums": {i: answers[i] for i in survivors},
        "close_replies_sha256": {i: digest(close_replies[i]) for i in survivors},
        "verify_body_sha256": digest(verify_body),
        "subset_sums_of_the_sum": ref.subset_sums(key, total, m),
        "messages": {kind: header.hex() for kind, header in messages.items()},
    }
    if short:
        content |= {"sum": total, "mean": average}
    return content


def round_of_three():
    sites = {"alpha": 8, "beta": 3, "gamma": 1}
    updates = {
        site: [k / 1024 for k in integers(f"three update {site}", 40, 4096)] for site in sites
    }
    return make_round(
        "three", sites, 3, 40, ["alpha", "beta", "gamma"], [], updates, 1024.0, 1_790_000_000
    )


def round_of_five():
    sites = {"alpha": 8, "alpha-2": 5, "beta": 2, "delta": 1, "gamma": 1}
    updates = {site: [k / 512 for k in integers(f"five update {site}", 5000, 32)] for site in sites}
    return make_round(
        "five",
        sites,
        3,
        5000,
        ["alpha", "alpha-2", "delta", "gamma"],
        ["delta"],
        updates,
        4096.0,
        7,
    )


# ---- distributed.json


def distributed_file():
    """Rounds of mode distributed: what is public, one hospital's integers, and the step."""
    seed = fixed("distributed rotation", 32)
    plans = [
        (40, 1.0, 0.125, 0.5, 3, [500, 300, 200, 120]),
        (64, 0.75, 0.1, 1.0, 4, [1000, 90, 80, 70, 60]),
        (5000, 2.5, 0.01, 0.25, 3, [9000, 40, 300]),
        (110_592, 1.5, 0.05, 1.0, 7, [2000] * 10),
    ]
    rounds = []
    for d, sigma, q, clip, threshold, declared in plans:
        numbers = ref.shared_numbers(d, sigma, q, clip, threshold, declared)
        rounds.append({"noise_multiplier": sigma, "threshold": threshold, "numbers": numbers})
    numbers, count = rounds[0]["numbers"], 4
    totals = [[k / 1000 for k in integers(f"distributed total {i}", 40, 400)] for i in range(count)]
    totals[3] = [200.0 * x for x in totals[3]]  # clamped
    noise = [integers(f"distributed noise {i}", 64, 20_000) for i in range(count)]
    plain = [ref.shared_integers(totals[i], numbers, i, seed) for i in range(count)]
    modulus = 2 ** numbers["modulus_bits"]
    vectors = [
        [(x + y) % modulus for x, y in zip(*both, strict=True)]
        for both in zip(plain, noise, strict=True)
    ]
    survivors = [0, 2, 3]
    total = [sum(values) % modulus for values in zip(*(vectors[i] for i in survivors), strict=True)]
    return {
        "rounds": rounds,
        "sum": {
            "rotation_seed": seed.hex(),
            "totals": totals,
            "noise": noise,
            "integers": plain,
            "vectors": vectors,
            "survivors": survivors,
            "total": total,
            "step": ref.shared_step(total, numbers, seed, survivors),
        },
    }


FILES = {
    "secure_sum_distributed.json": distributed_file,
    "secure_sum_primitives.json": primitives,
    "secure_sum_numbers.json": numbers_file,
    "secure_sum_round_of_three.json": round_of_three,
    "secure_sum_round_of_five.json": round_of_five,
}


def text_of(name):
    """The file's whole text."""
    content = {"source": SOURCE, "entropy": f"SHAKE-256 of {LABEL!r} + label", **FILES[name]()}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def main(arguments):
    for name in FILES:
        path, text = FOLDER / name, text_of(name)
        if "--check" in arguments:
            if path.read_text() != text:
                print(f"{path} is not what the reference makes")
                return 1
        else:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text)
            print(f"{path}: {len(text)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
