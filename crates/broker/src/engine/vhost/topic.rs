//! Binding patterns of a topic exchange: words between dots, `*` for exactly one word, `#` for any
//! number of them.

use std::collections::HashMap;

use slab::Slab;

use super::destinations::{Destination, Destinations};

const ROOT: usize = 0;

/// A trie of patterns, word by word. A routing key walks it with a set of nodes, as an automaton
/// reads a word: what it costs depends on the patterns that begin as the key does, not on how many
/// there are, and no node is visited twice for one word.
#[derive(Debug)]
pub(super) struct Topic {
    nodes: Slab<Node>,
    /// Counts the steps of all walks, so that a node knows whether this one has reached it.
    step: u64,
    active: Vec<usize>,
    next: Vec<usize>,
}

#[derive(Debug, Default)]
struct Node {
    words: HashMap<Box<str>, usize>,
    star: Option<usize>,
    hash: Option<usize>,
    is_hash: bool,
    destinations: Destinations,
    reached: u64,
}

impl Default for Topic {
    fn default() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::default());
        Self {
            nodes,
            step: 0,
            active: Vec::new(),
            next: Vec::new(),
        }
    }
}

impl Topic {
    pub(super) fn insert(&mut self, pattern: &str, destination: Destination) {
        let mut at = ROOT;
        for word in words(pattern) {
            at = self.child(at, word).unwrap_or_else(|| self.grow(at, word));
        }
        self.nodes[at].destinations.add(destination);
    }

    pub(super) fn remove(&mut self, pattern: &str, destination: Destination) {
        let mut path = vec![ROOT];
        for word in words(pattern) {
            let Some(child) = self.child(path[path.len() - 1], word) else {
                return;
            };
            path.push(child);
        }
        self.nodes[path[path.len() - 1]]
            .destinations
            .remove(destination);
        self.prune(&path, pattern);
    }

    /// Calls `found` with the destinations of every pattern that matches.
    pub(super) fn find(&mut self, key: &str, mut found: impl FnMut(&Destinations)) {
        self.active.clear();
        self.step += 1;
        self.reach(ROOT);
        std::mem::swap(&mut self.active, &mut self.next);
        for word in words(key) {
            self.step += 1;
            for index in 0..self.active.len() {
                let at = self.active[index];
                if self.nodes[at].is_hash {
                    self.reach(at);
                }
                if let Some(child) = self.nodes[at].star {
                    self.reach(child);
                }
                if let Some(child) = self.nodes[at].words.get(word).copied() {
                    self.reach(child);
                }
            }
            self.active.clear();
            std::mem::swap(&mut self.active, &mut self.next);
        }
        for at in self.active.drain(..) {
            found(&self.nodes[at].destinations);
        }
    }

    /// Adds a node to the next set, and with it the `#` below it, which may stand for no word.
    fn reach(&mut self, mut at: usize) {
        loop {
            let node = &mut self.nodes[at];
            if node.reached == self.step {
                return;
            }
            node.reached = self.step;
            self.next.push(at);
            let Some(hash) = node.hash else { return };
            at = hash;
        }
    }

    fn child(&self, at: usize, word: &str) -> Option<usize> {
        let node = &self.nodes[at];
        match word {
            "*" => node.star,
            "#" => node.hash,
            _ => node.words.get(word).copied(),
        }
    }

    fn grow(&mut self, at: usize, word: &str) -> usize {
        let child = self.nodes.insert(Node {
            is_hash: word == "#",
            ..Node::default()
        });
        let node = &mut self.nodes[at];
        match word {
            "*" => node.star = Some(child),
            "#" => node.hash = Some(child),
            _ => {
                node.words.insert(word.into(), child);
            }
        }
        child
    }

    /// Takes away the nodes at the end of `path` that lead nowhere any more.
    fn prune(&mut self, path: &[usize], pattern: &str) {
        let words: Vec<&str> = words(pattern).collect();
        for depth in (1..path.len()).rev() {
            if !self.nodes[path[depth]].is_bare() {
                return;
            }
            self.nodes.remove(path[depth]);
            let parent = &mut self.nodes[path[depth - 1]];
            match words[depth - 1] {
                "*" => parent.star = None,
                "#" => parent.hash = None,
                word => {
                    parent.words.remove(word);
                }
            }
        }
    }
}

impl Node {
    fn is_bare(&self) -> bool {
        self.words.is_empty()
            && self.star.is_none()
            && self.hash.is_none()
            && self.destinations.is_empty()
    }
}

/// The words of a key or pattern. The empty key has none.
fn words(key: &str) -> impl Iterator<Item = &str> {
    let parts = if key.is_empty() { 0 } else { usize::MAX };
    key.split('.').take(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_are_gone_leave_no_node() {
        let mut topic = Topic::default();
        let patterns = ["", "#", "a.*.#", "a.*.b", "a.b.c.d"];
        for pattern in patterns {
            topic.insert(pattern, Destination::Queue(0));
        }
        for pattern in patterns {
            topic.remove(pattern, Destination::Queue(0));
        }
        topic.remove("a.b", Destination::Queue(0));
        assert_eq!(topic.nodes.len(), 1);
    }
}
