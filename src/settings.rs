//! The `rowclaim.*` settings.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::{CStr, CString};

/// What is announced on the `rowclaim` channel.
#[derive(Clone, Copy, PartialEq, Debug, PostgresGucEnum)]
pub enum Notify {
    #[name = c"off"]
    Off,
    #[name = c"commits"]
    Commits,
    #[name = c"all"]
    All,
}

/// What replay does where the replica's row is not what the journal says.
#[derive(Clone, Copy, PartialEq, Debug, PostgresGucEnum)]
pub enum Mismatch {
    #[name = c"error"]
    Error,
    #[name = c"overwrite"]
    Overwrite,
}

/// What replay does where the replica lacks a table or column.
#[derive(Clone, Copy, PartialEq, Debug, PostgresGucEnum)]
pub enum Missing {
    #[name = c"error"]
    Error,
    #[name = c"skip"]
    Skip,
}

static ACTOR: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static MESSAGE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ENFORCE: GucSetting<bool> = GucSetting::<bool>::new(true);
static DEFAULT_TTL: GucSetting<i32> = GucSetting::<i32>::new(0);
static DRAFT_TTL: GucSetting<i32> = GucSetting::<i32>::new(0);
static NOTIFY: GucSetting<Notify> = GucSetting::<Notify>::new(Notify::Commits);
static REPLAY_MISMATCH: GucSetting<Mismatch> = GucSetting::<Mismatch>::new(Mismatch::Error);
static REPLAY_MISSING: GucSetting<Missing> = GucSetting::<Missing>::new(Missing::Error);

/// The longest actor name, in bytes.
pub const ACTOR_MAX: usize = 255;

/// Accepts an actor name of up to 255 bytes without control characters; empty means "not set".
#[pg_guard]
unsafe extern "C-unwind" fn check_actor(
    value: *mut *mut core::ffi::c_char,
    _extra: *mut *mut core::ffi::c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    if value.is_null() || (*value).is_null() {
        return true;
    }
    let bytes = CStr::from_ptr(*value).to_bytes();
    let fine =
        bytes.len() <= ACTOR_MAX && std::str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(char::is_control));
    if !fine {
        const DETAIL: &CStr = c"{\"reason\":\"invalid_parameter\",\"parameter\":\"rowclaim.actor\"}";
        const HINT: &CStr = c"An actor is at most 255 bytes without control characters.";
        pg_sys::GUC_check_errdetail_string = DETAIL.as_ptr().cast_mut();
        pg_sys::GUC_check_errhint_string = HINT.as_ptr().cast_mut();
    }
    fine
}

/// Runs just before the value changes, also back at the end of a transaction: it may only forget.
#[pg_guard]
unsafe extern "C-unwind" fn assign_actor(_value: *const core::ffi::c_char, _extra: *mut core::ffi::c_void) {
    crate::actor::forget();
}

pub fn register() {
    // SAFETY: the hooks are guarded and static.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"rowclaim.actor",
            c"The user on whose behalf this session acts.",
            c"At most 255 bytes without control characters; empty: the login role.",
            &ACTOR,
            GucContext::Suset,
            GucFlags::default(),
            Some(check_actor),
            Some(assign_actor),
            None,
        );
    }
    GucRegistry::define_bool_guc(
        c"rowclaim.enforce",
        c"Rejects writes to rows the actor does not hold.",
        c"Off is for maintenance: writes are allowed but still drafted and journaled.",
        &ENFORCE,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"rowclaim.default_ttl",
        c"How long a claim lasts when claim_row() gives no ttl; 0 means until released.",
        c"",
        &DEFAULT_TTL,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"rowclaim.draft_ttl",
        c"A draft untouched this long may be taken over by another actor; 0 means never.",
        c"",
        &DRAFT_TTL,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_string_guc(
        c"rowclaim.message",
        c"The message of changesets made by tables with committing => 'transaction'.",
        c"",
        &MESSAGE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"rowclaim.notify",
        c"What is announced on the channel rowclaim: off, commits or all.",
        c"",
        &NOTIFY,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"rowclaim.replay_mismatch",
        c"What replay does with a row that is not what the journal says: error or overwrite.",
        c"For the server of a replica: set it with ALTER DATABASE or ALTER SYSTEM.",
        &REPLAY_MISMATCH,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"rowclaim.replay_missing",
        c"What replay does with changes of a table or column that is not there: error or skip.",
        c"For the server of a replica: set it with ALTER DATABASE or ALTER SYSTEM.",
        &REPLAY_MISSING,
        GucContext::Suset,
        GucFlags::default(),
    );
    // SAFETY: a static string; from now on unknown rowclaim.* names are refused.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"rowclaim".as_ptr()) };
}

fn non_empty(setting: &'static GucSetting<Option<CString>>) -> Option<String> {
    setting.get().filter(|text| !text.is_empty()).map(|text| text.to_string_lossy().into_owned())
}

pub fn actor() -> Option<String> {
    non_empty(&ACTOR)
}

pub fn message() -> Option<String> {
    non_empty(&MESSAGE)
}

pub fn enforce() -> bool {
    ENFORCE.get()
}

/// Seconds; `None` when claims do not expire by default.
pub fn default_ttl() -> Option<i64> {
    Some(i64::from(DEFAULT_TTL.get())).filter(|&s| s > 0)
}

/// Seconds; `None` when drafts cannot be taken over.
pub fn draft_ttl() -> Option<i64> {
    Some(i64::from(DRAFT_TTL.get())).filter(|&s| s > 0)
}

pub fn replay_mismatch() -> Mismatch {
    REPLAY_MISMATCH.get()
}

pub fn replay_missing() -> Missing {
    REPLAY_MISSING.get()
}

pub fn notify() -> Notify {
    NOTIFY.get()
}
