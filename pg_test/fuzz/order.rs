//! Changes that create, refer to, free and take values: all of them come out once, and in an order
//! that every constraint allows, if there is one.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rowclaim_fuzz::hash::ByNumber;
use rowclaim_fuzz::order::{Order, Role};
use std::hash::BuildHasher;

#[derive(Arbitrary, Debug)]
struct Note {
    change: u8,
    role: u8,
    constraint: u8,
    value: u8,
}

const ROLES: [Role; 6] = [Role::Frees, Role::Takes, Role::Creates, Role::Refers, Role::Leaves, Role::Removes];

fuzz_target!(|input: (u8, Vec<Note>)| {
    let count = usize::from(input.0) % 48 + 1;
    let notes: Vec<(usize, usize, u32, u8)> = input
        .1
        .iter()
        .map(|n| (usize::from(n.change) % count, usize::from(n.role) % 6, u32::from(n.constraint) % 4, n.value % 8))
        .collect();
    let mut order = Order::default();
    for (change, role, constraint, value) in &notes {
        order.note(*change as u32, ROLES[*role], *constraint, &[&value.to_string()]).expect("memory");
    }
    let result = order.solve(count).expect("memory").unwrap_or_else(|| (0..count as u32).collect());
    let mut sorted = result.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..count as u32).collect::<Vec<_>>());

    // Frees before Takes, Creates before Refers, Leaves before Removes.
    let before: Vec<(usize, usize)> = notes
        .iter()
        .filter(|a| a.1 % 2 == 0)
        .flat_map(|a| notes.iter().filter(|b| b.1 == a.1 + 1 && (a.2, a.3) == (b.2, b.3)).map(|b| (a.0, b.0)))
        .filter(|(a, b)| a != b)
        .collect();
    // Is there an order? Whatever waits for nobody is taken away until nothing changes.
    let mut left = vec![true; count];
    while let Some(free) = (0..count).find(|&i| left[i] && !before.iter().any(|&(a, b)| b == i && left[a])) {
        left[free] = false;
    }
    if left.iter().any(|left| *left) {
        return;
    }
    let place = |change: usize| result.iter().position(|c| *c as usize == change);
    for (a, b) in before {
        assert!(place(a) < place(b), "{a} does not stand before {b} in {result:?}");
    }

    // Numbers given out one after the other do not share all of their hash.
    let [first, second] = [0, 1].map(|i| ByNumber::default().hash_one(i64::from(input.0) + i));
    assert_ne!(first, second);
});
