//! Pseudo-random ids and numbers, computed from a seed.
//!
//! They are not drawn from `rand`, because an id must be a function of the seed and one number, and
//! the encoding of a cursor must be reversible.

/// The number of bits from which an id is generated.
const ID_BITS: u32 = 40;

/// Returns the id number `n`. Four of five ids have the form that the API generates, the others are
/// custom ids. Ids of communities begin with `@TGS#_`; other custom ids must not begin with `@TGS#`
/// (document 269/1502).
pub(super) fn generated_id(community: bool, n: u64, seed: u64) -> Box<str> {
    const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let character =
        |bits: u64| char::from(BASE32[usize::try_from(bits & mask(5)).expect("five bits are an index")]);
    let code = permuted(n, ID_BITS / 2, seed);
    let hash = mixed(seed ^ n);
    let custom_length = (hash.is_multiple_of(5)).then_some(24 + (hash >> 8) % 21);
    let mut id = String::with_capacity(44);
    id.push_str(if community { "@TGS#_" } else { "" });
    id.push_str(if custom_length.is_some() { "room_" } else { "@TGS#2" });
    id.extend((0..8).map(|n| character(code >> (5 * n))));
    let mut filler = hash;
    while (id.len() as u64) < custom_length.unwrap_or(0) {
        filler = mixed(filler);
        id.push(character(filler).to_ascii_lowercase());
    }
    id.into_boxed_str()
}

/// Returns an id that no group has. It is generated from the greatest numbers, which no group
/// reaches.
pub(super) fn invented_id(community: bool, n: u64, seed: u64) -> Box<str> {
    generated_id(community, mask(ID_BITS) - n, seed)
}

/// Returns whether an id is selected, by a hash of the id and the seed. One id in `n` is selected.
pub(super) fn is_one_in(n: u64, id: &str, seed: u64) -> bool {
    const FNV_PRIME: u64 = 0x0100_0000_01b3;
    let hash = id.bytes().fold(mixed(seed), |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    mixed(hash).is_multiple_of(n)
}

/// Permutes the numbers of 2 × `half` bits with a four-round Feistel network, keyed by `key`.
pub(super) fn permuted(number: u64, half: u32, key: u64) -> u64 {
    let halves = (number >> half, number & mask(half));
    let (left, right) = (0..4)
        .fold(halves, |(left, right), round| (right, left ^ mixed(right ^ key ^ round << 32) & mask(half)));
    left << half | right
}

/// Reverses [`permuted`].
pub(super) fn unpermuted(number: u64, half: u32, key: u64) -> u64 {
    let halves = (number >> half, number & mask(half));
    let (left, right) = (0..4)
        .rev()
        .fold(halves, |(left, right), round| (right ^ mixed(left ^ key ^ round << 32) & mask(half), left));
    left << half | right
}

/// Returns a hash of a number, computed with the finaliser of splitmix64. Every bit of the hash
/// depends on every bit of the number.
pub(super) fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// Returns a number whose lowest `bits` bits are 1.
pub(super) fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}
