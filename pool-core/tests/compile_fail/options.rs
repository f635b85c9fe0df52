use pool_core::task;

#[task(timeout = 3)]
fn unknown() {}

#[task(name)]
fn without_value() {}

#[task(name = 3)]
fn number_as_name() {}

#[task(name = "")]
fn empty_name() {}

#[task(name = "a", name = "b")]
fn two_names() {}

#[task(crate = "pool_core")]
fn text_as_path() {}

#[task(version = "2")]
fn text_as_version() {}

#[task(version = 1, version = 2)]
fn two_versions() {}

fn main() {}
