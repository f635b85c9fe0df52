//! The `#[task]` attribute of the crash-resilient process pool.
//!
//! Use it through the `pool_core` crate, which re-exports it with its documentation and examples.

mod expand;
mod item;
mod options;
mod sources;
mod types;

use proc_macro::TokenStream;

/// Turns a function into a task: a function of the same name and arguments that returns a `Call`.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    let options = syn::parse(options);
    let item = syn::parse(item);
    match (options, item) {
        (Ok(options), Ok(item)) => expand::expand(&options, &item),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => error.into_compile_error(),
        (Err(mut first), Err(second)) => {
            first.combine(second);
            first.into_compile_error()
        }
    }
    .into()
}
