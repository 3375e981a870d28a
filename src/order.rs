//! The order of changes inside a changeset: a consumer that applies them one by one meets no
//! foreign key or unique violation where such an order exists. No PostgreSQL in here.
//!
//! Every change leaves tokens: hashes of (constraint, values) with the part it plays for them.
//! Changes that share a token and play matching parts get an edge; the edges are sorted
//! topologically (Kahn 1962), keeping the order of capture wherever no edge says otherwise.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, TryReserveError};
use std::hash::{DefaultHasher, Hash, Hasher};

/// What a change does with the values of a constraint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Gives a unique value up; before `Takes`.
    Frees,
    Takes,
    /// Makes a referenced key; before `Refers`.
    Creates,
    Refers,
    /// Ends a reference; before `Removes`.
    Leaves,
    Removes,
}

/// A short name for the values of a constraint.
pub fn token(constraint: u32, values: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (constraint, values).hash(&mut hasher);
    hasher.finish()
}

/// Change `from` stands before change `to`.
#[derive(Clone, Copy)]
struct Edge {
    from: u32,
    to: u32,
    /// Because of a unique value, not of a foreign key.
    unique: bool,
}

#[derive(Default)]
pub struct Order {
    tokens: Vec<(u64, Role, u32)>,
}

impl Order {
    /// Change number `change` plays `role` for these values of a constraint. Fails for want of memory, as all here.
    pub fn note(&mut self, change: u32, role: Role, constraint: u32, values: &[&str]) -> Result<(), TryReserveError> {
        self.tokens.try_reserve(1)?;
        self.tokens.push((token(constraint, values), role, change));
        Ok(())
    }

    /// The order to write `count` changes in; `None`: as captured.
    pub fn solve(mut self, count: usize) -> Result<Option<Vec<u32>>, TryReserveError> {
        let mut edges = self.edges()?;
        if edges.iter().all(|edge| edge.from < edge.to) {
            return Ok(None);
        }
        // How many changes each is waiting for, and how many of these for a unique value.
        let (mut waiting, mut unique) = (filled(0u32, count)?, filled(0u32, count)?);
        let mut frees = filled(false, count)?;
        for edge in &edges {
            waiting[edge.to as usize] += 1;
            unique[edge.to as usize] += u32::from(edge.unique);
            frees[edge.from as usize] |= edge.unique;
        }
        edges.sort_unstable_by_key(|edge| edge.from);
        let (mut ready, mut yielding) = (BinaryHeap::new(), BinaryHeap::new());
        for change in 0..count as u32 {
            match (waiting[change as usize], unique[change as usize]) {
                (0, _) => push(&mut ready, change)?,
                // It waits for foreign keys only.
                (_, 0) => push(&mut yielding, change)?,
                _ => {}
            }
        }
        let mut freeing = (0..count as u32).filter(|&i| frees[i as usize]);
        let mut any = 0..count as u32;
        let mut done = filled(false, count)?;
        let mut order = Vec::new();
        order.try_reserve_exact(count)?;
        while order.len() < count {
            let next = match ready.pop() {
                Some(Reverse(next)) => next,
                // A cycle: no order exists. Foreign keys yield first, for replay does not check them;
                // then a change that itself gives a value up, which replay can set aside.
                None => yielding
                    .pop()
                    .map(|Reverse(next)| next)
                    .or_else(|| freeing.find(|&i| !done[i as usize]))
                    .or_else(|| any.find(|&i| !done[i as usize]))
                    .unwrap_or_default(),
            };
            if std::mem::replace(&mut done[next as usize], true) {
                continue;
            }
            order.push(next);
            let after = &edges[edges.partition_point(|edge| edge.from < next)..];
            for &Edge { to, unique: is_unique, .. } in after.iter().take_while(|edge| edge.from == next) {
                waiting[to as usize] = waiting[to as usize].saturating_sub(1);
                unique[to as usize] -= u32::from(is_unique);
                if is_unique && unique[to as usize] == 0 && !done[to as usize] {
                    push(&mut yielding, to)?;
                }
                if waiting[to as usize] == 0 && !done[to as usize] {
                    push(&mut ready, to)?;
                }
            }
        }
        Ok(Some(order))
    }

    fn edges(&mut self) -> Result<Vec<Edge>, TryReserveError> {
        self.tokens.sort_unstable();
        let mut edges = Vec::new();
        for group in self.tokens.chunk_by(|a, b| a.0 == b.0) {
            let of = |role: Role| group.iter().filter(move |t| t.1 == role).map(|t| t.2);
            for (first, second) in
                [(Role::Frees, Role::Takes), (Role::Creates, Role::Refers), (Role::Leaves, Role::Removes)]
            {
                for from in of(first) {
                    let unique = first == Role::Frees;
                    for to in of(second).filter(|to| *to != from) {
                        edges.try_reserve(1)?;
                        edges.push(Edge { from, to, unique });
                    }
                }
            }
        }
        Ok(edges)
    }
}

fn filled<T: Clone>(value: T, count: usize) -> Result<Vec<T>, TryReserveError> {
    let mut list = Vec::new();
    list.try_reserve_exact(count)?;
    list.resize(count, value);
    Ok(list)
}

fn push(heap: &mut BinaryHeap<Reverse<u32>>, change: u32) -> Result<(), TryReserveError> {
    heap.try_reserve(1)?;
    heap.push(Reverse(change));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capture_order_stays_without_conflicts() {
        let mut order = Order::default();
        order.note(0, Role::Creates, 7, &["1"]).expect("memory");
        order.note(1, Role::Refers, 7, &["1"]).expect("memory");
        assert_eq!(order.solve(2).expect("memory"), None);
    }

    #[test]
    fn a_parent_comes_before_its_child_and_goes_after_it() {
        let mut order = Order::default();
        order.note(0, Role::Refers, 7, &["1"]).expect("memory");
        order.note(1, Role::Creates, 7, &["1"]).expect("memory");
        order.note(2, Role::Removes, 7, &["2"]).expect("memory");
        order.note(3, Role::Leaves, 7, &["2"]).expect("memory");
        assert_eq!(order.solve(4).expect("memory"), Some(vec![1, 0, 3, 2]));
    }

    #[test]
    fn a_cycle_keeps_every_change() {
        let mut order = Order::default();
        for (change, frees, takes) in [(0, "a", "b"), (1, "b", "a")] {
            order.note(change, Role::Frees, 1, &[frees]).expect("memory");
            order.note(change, Role::Takes, 1, &[takes]).expect("memory");
        }
        assert_eq!(order.solve(3).expect("memory").map(|o| o.len()), Some(3));
    }

    #[test]
    fn in_a_cycle_nothing_takes_a_value_before_an_update_frees_it() {
        let mut order = Order::default();
        // 0 is inserted with value a; 1 and 2 exchange a and b.
        order.note(0, Role::Takes, 1, &["c"]).expect("memory");
        for (change, frees, takes) in [(1, "a", "b"), (2, "b", "a"), (3, "c", "d"), (4, "d", "c")] {
            order.note(change, Role::Frees, 1, &[frees]).expect("memory");
            order.note(change, Role::Takes, 1, &[takes]).expect("memory");
        }
        let result = order.solve(5).expect("memory").unwrap_or_default();
        let place = |c: u32| result.iter().position(|x| *x == c);
        assert!(place(3) < place(0), "{result:?}");
    }

    proptest::proptest! {
        /// A chain of unique values, each freed by the next holder, in any order of capture.
        #[test]
        fn chains_are_sorted(seed in proptest::collection::vec(0u32..1000, 1..60)) {
            let n = seed.len() as u32;
            let mut perm: Vec<u32> = (0..n).collect();
            perm.sort_by_key(|i| seed[*i as usize]);
            let mut order = Order::default();
            // perm[i] frees value i and takes value i+1, so perm[i+1] must come first.
            for (i, change) in perm.iter().enumerate() {
                order.note(*change, Role::Frees, 1, &[&i.to_string()]).expect("memory");
                order.note(*change, Role::Takes, 1, &[&(i + 1).to_string()]).expect("memory");
            }
            let result = order.solve(n as usize).expect("memory").unwrap_or_else(|| (0..n).collect());
            let place = |c: u32| result.iter().position(|x| *x == c);
            for pair in perm.windows(2) {
                proptest::prop_assert!(place(pair[1]) < place(pair[0]));
            }
        }
    }
}
