//! Two texts as row images: what an update changed, and what is missing in one of them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rowclaim_fuzz::image::{self, parse_image, value};
use rowclaim_fuzz::{check_image, diff};
use std::collections::HashSet;

fuzz_target!(|texts: (&str, &str)| {
    let (Ok(base), Ok(now)) = (parse_image(texts.0), parse_image(texts.1)) else { return };
    check_image(&base);
    check_image(&now);
    let unique = |image: &image::Image| image.iter().map(|(name, _)| name).collect::<HashSet<_>>().len() == image.len();
    // A row has each column once.
    if !unique(&base) || !unique(&now) {
        return;
    }
    let (old, new) = diff::changed(&base, &now);
    for (name, present) in &now {
        let former = value(&base, name);
        let differs = former.is_some_and(|former| former != *present);
        assert_eq!(value(&new, name), differs.then_some(*present));
        assert_eq!(value(&old, name), former.filter(|_| differs));
    }
    assert_eq!(old.len(), new.len());

    let filled = image::fill_missing(&image::object(&base), &image::object(&now)).expect("both are images");
    let filled = parse_image(&filled).expect("it is an image");
    assert!(unique(&filled));
    for (name, raw) in &filled {
        assert_eq!(Some(*raw), value(&base, name).or(value(&now, name)));
    }
    assert!(base.iter().chain(&now).all(|(name, _)| value(&filled, name).is_some()));
});
