//! A prefix trie over both address families: which ranges hold an address, at a cost that does not grow with
//! their number. It must not know what the ranges mean.

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::{
    Cidr,
    address::{left_aligned, mask},
};

/// Ranges with a value each. A path-compressed binary trie in one vector: a look-up visits at most one node
/// per prefix bit.
#[derive(Debug)]
pub(crate) struct Trie<T> {
    nodes: Vec<Node>,
    values: Vec<T>,
    /// IPv4, IPv6.
    roots: [u32; 2],
}

#[derive(Debug)]
struct Node {
    /// Left-aligned, clear after `prefix_bits`.
    bits: u128,
    prefix_bits: u8,
    /// Index into `values`, or NONE on a node that only branches.
    value: u32,
    children: [u32; 2],
}

/// No child, no value. Bounded by the limits on services and text, indices stay below.
const NONE: u32 = u32::MAX;

impl<T> Trie<T> {
    pub(crate) fn new() -> Self {
        Self { nodes: Vec::new(), values: Vec::new(), roots: [NONE; 2] }
    }

    /// Number of ranges.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The value of a range, made by `vacant` if the range is new.
    pub(crate) fn get_or_insert_with(&mut self, range: Cidr, vacant: impl FnOnce() -> T) -> &mut T {
        let node = self.node_of(range);
        if self.nodes[node].value == NONE {
            self.nodes[node].value = index_of(self.values.len());
            self.values.push(vacant());
        }
        let value = self.nodes[node].value;
        &mut self.values[value as usize]
    }

    /// The node of exactly this range; made, with a branch above it where needed.
    fn node_of(&mut self, range: Cidr) -> usize {
        let (bits, prefix_bits) = (range.left_aligned(), range.prefix_bits());
        // The link that leads to the node: a root, or a child of a node.
        let mut parent: Option<(usize, usize)> = None;
        let family = usize::from(range.network().is_ipv6());
        loop {
            let at = match parent {
                None => self.roots[family],
                Some((node, side)) => self.nodes[node].children[side],
            };
            if at == NONE {
                let leaf = self.push(bits, prefix_bits, [NONE; 2]);
                self.link(family, parent, leaf);
                return leaf as usize;
            }
            let node = &self.nodes[at as usize];
            // At most 128, so the cast keeps all of it.
            let common = ((node.bits ^ bits).leading_zeros() as u8).min(node.prefix_bits).min(prefix_bits);
            if common == node.prefix_bits {
                if common == prefix_bits {
                    return at as usize;
                }
                parent = Some((at as usize, side(bits, common)));
                continue;
            }
            // The new range, or the branch where both part, goes between the link and the node.
            let mut children = [NONE; 2];
            children[side(node.bits, common)] = at;
            let between = self.push(bits & mask(common), common, children);
            self.link(family, parent, between);
            if common == prefix_bits {
                return between as usize;
            }
            parent = Some((between as usize, side(bits, common)));
        }
    }

    fn push(&mut self, bits: u128, prefix_bits: u8, children: [u32; 2]) -> u32 {
        let index = index_of(self.nodes.len());
        self.nodes.push(Node { bits, prefix_bits, value: NONE, children });
        index
    }

    fn link(&mut self, family: usize, parent: Option<(usize, usize)>, to: u32) {
        match parent {
            None => self.roots[family] = to,
            Some((node, side)) => self.nodes[node].children[side] = to,
        }
    }

    /// Calls `visit` for every range that holds `address`, the shortest prefix first.
    pub(crate) fn covering<'t>(&'t self, address: IpAddr, mut visit: impl FnMut(&'t T)) {
        let bits = left_aligned(address);
        let mut at = self.roots[usize::from(address.is_ipv6())];
        // Every step goes to a longer prefix: at most 129 steps.
        while let Some(node) = self.nodes.get(at as usize) {
            if (node.bits ^ bits) & mask(node.prefix_bits) != 0 {
                return;
            }
            if let Some(value) = self.values.get(node.value as usize) {
                visit(value);
            }
            if node.prefix_bits >= 128 {
                return;
            }
            at = node.children[side(bits, node.prefix_bits)];
        }
    }

    /// The same ranges with other values.
    pub(crate) fn map<U>(self, value: impl FnMut(T) -> U) -> Trie<U> {
        let mut nodes = self.nodes;
        nodes.shrink_to_fit();
        Trie { nodes, values: self.values.into_iter().map(value).collect(), roots: self.roots }
    }

    /// All values, in order of insertion.
    pub(crate) fn values(&self) -> &[T] {
        &self.values
    }
}

/// Which child the bit behind a prefix of `prefix_bits` (below 128) leads to.
fn side(bits: u128, prefix_bits: u8) -> usize {
    usize::from(bits >> (127 - u32::from(prefix_bits.min(127))) & 1 == 1)
}

fn index_of(length: usize) -> u32 {
    u32::try_from(length)
        .ok()
        .filter(|index| *index != NONE)
        .expect("invariant: 4 G ranges do not fit in the bounded input")
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn range(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    fn covering<'a>(trie: &Trie<&'a str>, address: &str) -> Vec<&'a str> {
        let mut found = Vec::new();
        trie.covering(address.parse().expect("an address"), |value| found.push(*value));
        found
    }

    #[test]
    fn finds_every_covering_range_shortest_first_whatever_the_order_of_insertion() {
        let ranges = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.3/32",
            "10.128.0.0/9",
            "::/0",
            "fd00::/8",
            "fd00::1/128",
        ];
        for rotation in 0..ranges.len() {
            let mut trie = Trie::new();
            for index in 0..ranges.len() {
                let text = ranges[(index * 3 + rotation) % ranges.len()];
                trie.get_or_insert_with(range(text), || text);
            }
            assert_eq!(trie.len(), ranges.len());
            assert_eq!(
                covering(&trie, "10.1.2.3"),
                ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"]
            );
            assert_eq!(covering(&trie, "10.200.0.1"), ["0.0.0.0/0", "10.0.0.0/8", "10.128.0.0/9"]);
            assert_eq!(covering(&trie, "192.0.2.1"), ["0.0.0.0/0"]);
            assert_eq!(covering(&trie, "fd00::1"), ["::/0", "fd00::/8", "fd00::1/128"]);
            assert_eq!(covering(&trie, "2001:db8::1"), ["::/0"]);
        }
    }

    #[test]
    fn the_same_range_is_one_entry() {
        let mut trie = Trie::new();
        trie.get_or_insert_with(range("10.0.0.0/8"), || vec![1]);
        trie.get_or_insert_with(range("10.0.0.0/8"), Vec::new).push(2);
        assert_eq!(trie.values(), [[1, 2]]);
    }

    #[test]
    fn a_branch_that_carries_no_range_is_never_reported() {
        let mut trie = Trie::new();
        trie.get_or_insert_with(range("10.0.0.0/16"), || "a");
        trie.get_or_insert_with(range("10.1.0.0/16"), || "b");
        assert_eq!(covering(&trie, "10.2.0.0"), Vec::<&str>::new());
        assert_eq!(covering(&trie, "10.1.0.0"), ["b"]);
    }
}
