//! Text as a journal entry's `changes`: never a panic, and what is accepted is written and read
//! again without loss.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rowclaim_fuzz::change::Change;
use rowclaim_fuzz::diff::{self, Op};
use rowclaim_fuzz::{check_image, image};

fuzz_target!(|text: &str| {
    let Ok(changes) = Change::parse_all(text) else { return };
    for change in &changes {
        let _ = image::split_name(&change.table);
        check_image(&change.old);
        check_image(&change.new);
        let Ok(key) = image::parse_image(change.key_text()) else { continue };
        check_image(&key);
        let op = match change.op.as_ref() {
            "insert" => Op::Insert,
            "update" => Op::Update,
            "delete" => Op::Delete,
            _ => continue,
        };
        let (old, new) = (image::object(&change.old), image::object(&change.new));
        let version = change.version.unwrap_or_default();
        let written = diff::change(op, &change.table, &image::object(&key), Some(&old), Some(&new), version);
        let written = format!("[{written}]");
        let back = Change::parse_all(&written).expect("what was written can be read");
        let back = back.first().expect("it is one change");
        assert_eq!((&back.op, &back.table), (&change.op, &change.table));
        assert_eq!((&back.old, &back.new, back.version), (&change.old, &change.new, Some(version)));
        assert_eq!(image::parse_image(back.key_text()).as_ref(), Ok(&key));
    }
});
