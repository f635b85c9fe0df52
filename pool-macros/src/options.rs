//! What stands in the parentheses of `#[task(…)]`.

use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Error, Ident, LitInt, LitStr, Path, Result, Token};

/// `#[task(name = "…", version = n, crate = path)]`.
pub(crate) struct Options {
    pub(crate) name: Option<LitStr>,
    pub(crate) version: Option<u32>,
    /// Where `pool_core` is found.
    pub(crate) krate: Path,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut name: Option<LitStr> = None;
        let mut version = None;
        let mut krate = None;
        while !input.is_empty() {
            let key = input.call(Ident::parse_any)?;
            match key.to_string().as_str() {
                "name" => {
                    value(input, &key, "name = \"my_tasks::resize\"")?;
                    let text: LitStr = input
                        .parse()
                        .map_err(|e| Error::new(e.span(), "the name of a task is a string literal"))?;
                    if text.value().is_empty() || text.value().contains(char::is_control) {
                        let message = "the name of a task cannot be empty or contain control characters";
                        return Err(Error::new(text.span(), message));
                    }
                    once(&key, name.replace(text).is_some())?;
                }
                "version" => {
                    value(input, &key, "version = 2")?;
                    let number = input.parse::<LitInt>().and_then(|number| number.base10_parse());
                    let message = "the version of a task is a number from 0 to 4294967295, without quotes";
                    let number: u32 = number.map_err(|e| Error::new(e.span(), message))?;
                    once(&key, version.replace(number).is_some())?;
                }
                "crate" => {
                    value(input, &key, "crate = my_crate::pool_core")?;
                    let path = input.call(Path::parse_mod_style).map_err(|e| {
                        Error::new(
                            e.span(),
                            "`crate` takes a path without quotes: `#[task(crate = my_crate::pool_core)]`",
                        )
                    })?;
                    once(&key, krate.replace(path).is_some())?;
                }
                other => {
                    let message = format!(
                        "`{other}` is not an option of #[task], which has `name = \"…\"`, `version = 2` and \
                         `crate = path`; time-outs and retries are set on the call: `f(x).timeout(d).retries(2)`"
                    );
                    return Err(Error::new(key.span(), message));
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(Options { name, version, krate: krate.unwrap_or_else(|| syn::parse_quote!(::pool_core)) })
    }
}

fn value(input: ParseStream<'_>, key: &Ident, example: &str) -> Result<()> {
    match input.parse::<Option<Token![=]>>()? {
        Some(_) => Ok(()),
        None => Err(Error::new(key.span(), format!("`{key}` needs a value: `#[task({example})]`"))),
    }
}

fn once(key: &Ident, seen: bool) -> Result<()> {
    if seen { Err(Error::new(key.span(), format!("`{key}` is given twice"))) } else { Ok(()) }
}
