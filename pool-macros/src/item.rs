//! The function under `#[task]`, taken apart and checked.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{
    Attribute, Error, FnArg, GenericParam, Ident, Meta, Pat, PatType, Result, ReturnType, Safety, Signature,
    Token, Type, Visibility,
};

use crate::types;

/// A function that can be a task.
pub(crate) struct Item {
    /// Attributes of the function that callers see: documentation, `cfg`, lints.
    pub(crate) outer_attributes: Vec<Attribute>,
    /// Attributes of the function that runs: `#[inline]`, `#[tracing::instrument]`, …
    pub(crate) inner_attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) signature: Signature,
    pub(crate) parameters: Vec<Parameter>,
    /// `None` for `()`.
    pub(crate) result: Option<Type>,
    pub(crate) body: Group,
}

/// One parameter of the function.
pub(crate) struct Parameter {
    pub(crate) kind: Kind,
    /// What callers see it as.
    pub(crate) name: Ident,
    pub(crate) ty: Type,
}

/// Where the value of a parameter comes from.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Argument,
    Context,
    State,
}

impl Parse for Item {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let rest = input.fork();
        let mut signature: Signature = input.parse().map_err(|error| {
            if is_function(&rest) {
                error
            } else {
                Error::new(
                    rest.span(),
                    "#[task] goes on a function: `#[task] fn resize(image: Vec<u8>, width: u32) -> …`",
                )
            }
        })?;
        let mut errors = Vec::new();
        check_qualifiers(&signature, &mut errors);
        check_generics(&signature, &mut errors);
        let parameters = take_parameters(&mut signature, &mut errors);
        let result = result_type(&signature.output);
        if let Some(ty) = &result {
            types::check_result(ty, &mut errors);
        }
        let body: Result<Group> = match input.parse() {
            Ok(TokenTree::Group(body)) if body.delimiter() == Delimiter::Brace => Ok(body),
            _ => Err(Error::new(signature.ident.span(), "#[task] needs a function with a body")),
        };
        if let Some(error) = errors.into_iter().reduce(|mut all, error| {
            all.combine(error);
            all
        }) {
            return Err(error);
        }
        let body = body?;
        let (mut outer_attributes, inner_attributes) =
            attributes.into_iter().partition::<Vec<_>, _>(|attribute| is_outer(&attribute.meta));
        // `Call` is `#[must_use]` itself; a second mark without a message is a Clippy warning
        outer_attributes
            .retain(|attribute| !matches!(&attribute.meta, Meta::Path(path) if path.is_ident("must_use")));
        Ok(Item { outer_attributes, inner_attributes, visibility, signature, parameters, result, body })
    }
}

fn is_function(rest: ParseStream<'_>) -> bool {
    let skipped = rest.fork();
    while skipped.peek(Token![const])
        || skipped.peek(Token![async])
        || skipped.peek(Token![unsafe])
        || skipped.peek(Token![extern])
        || skipped.peek(syn::LitStr)
    {
        if skipped.parse::<TokenTree>().is_err() {
            return false;
        }
    }
    skipped.peek(Token![fn])
}

fn check_qualifiers(signature: &Signature, errors: &mut Vec<Error>) {
    let mut refuse = |culprit: TokenStream, message: &str| errors.push(Error::new_spanned(culprit, message));
    if let Some(token) = &signature.asyncness {
        let message = "a task cannot be `async`: it has a worker process to itself, so block in it, or \
                       start a runtime in the body (`runtime.block_on(…)`)";
        refuse(token.to_token_stream(), message);
    }
    if let Some(token) = &signature.constness {
        refuse(
            token.to_token_stream(),
            "a task cannot be `const`: calling it encodes its arguments; remove `const`",
        );
    }
    if let Safety::Unsafe(token) = &signature.safety {
        let message = "a task cannot be `unsafe`: nobody at the call can uphold its contract in another \
                       process; put the `unsafe` block into the body";
        refuse(token.to_token_stream(), message);
    }
    if let Some(abi) = &signature.abi {
        let message = "a task is an ordinary Rust function: remove the `extern` and call the foreign \
                       function in the body";
        refuse(abi.to_token_stream(), message);
    }
    if let Some(variadic) = &signature.variadic {
        refuse(variadic.dots.to_token_stream(), "a task cannot be variadic: take a `Vec` or a slice");
    }
}

fn check_generics(signature: &Signature, errors: &mut Vec<Error>) {
    for parameter in &signature.generics.params {
        if !matches!(parameter, GenericParam::Lifetime(_)) {
            let message = "a task cannot be generic, because it is found by its name in another process: \
                           write one task for each type, each calling the generic function";
            errors.push(Error::new_spanned(parameter, message));
        }
    }
}

fn result_type(output: &ReturnType) -> Option<Type> {
    match output {
        ReturnType::Default => None,
        ReturnType::Type(_, ty) => match types::ungrouped(ty) {
            Type::Tuple(tuple) if tuple.elems.is_empty() => None,
            ty => Some(ty),
        },
    }
}

/// Checks the parameters and removes `#[context]` and `#[state]` from them.
fn take_parameters(signature: &mut Signature, errors: &mut Vec<Error>) -> Vec<Parameter> {
    let mut parameters: Vec<Parameter> = Vec::new();
    for (index, input) in signature.inputs.iter_mut().enumerate() {
        let typed = match input {
            FnArg::Typed(typed) => typed,
            FnArg::Receiver(receiver) => {
                let message = "a task cannot have `self`: it is a free function, run in another process; \
                               pass what it needs as arguments";
                errors.push(Error::new_spanned(&*receiver, message));
                continue;
            }
        };
        let kind = take_kind(typed, errors);
        let ty = types::ungrouped(&typed.ty);
        if kind == Kind::Argument {
            types::check_argument(&ty, errors);
        } else if parameters.iter().any(|parameter| parameter.kind == kind) {
            let message = match kind {
                Kind::State => "a task has one `#[state]` parameter: put what it needs into one struct",
                _ => "a task has one `#[context]` parameter",
            };
            errors.push(Error::new_spanned(&typed.pat, message));
        } else {
            check_form(kind, &ty, errors);
        }
        let name = match &*typed.pat {
            Pat::Ident(pat) => pat.ident.clone(),
            _ => Ident::new(&format!("arg{index}"), Span::mixed_site()),
        };
        parameters.push(Parameter { kind, name, ty });
    }
    parameters
}

fn take_kind(typed: &mut PatType, errors: &mut Vec<Error>) -> Kind {
    let mut kind = Kind::Argument;
    typed.attrs.retain(|attribute| {
        let path = attribute.path();
        let found = match () {
            () if path.is_ident("context") => Kind::Context,
            () if path.is_ident("state") => Kind::State,
            () => {
                if path.is_ident("cfg") || path.is_ident("cfg_attr") {
                    let message = "a parameter of a task cannot depend on `cfg`: write two functions, each \
                                   with its `cfg`";
                    errors.push(Error::new_spanned(attribute, message));
                }
                return true;
            }
        };
        if let Err(error) = attribute.meta.require_path_only() {
            errors.push(error);
        } else if kind != Kind::Argument {
            let message = "a parameter is either `#[context]` or `#[state]`, once";
            errors.push(Error::new_spanned(attribute, message));
        }
        kind = found;
        false
    });
    kind
}

fn check_form(kind: Kind, ty: &Type, errors: &mut Vec<Error>) {
    let (mutable, message) = match kind {
        Kind::Argument => return,
        Kind::Context => {
            (false, "a `#[context]` parameter is a shared reference: `#[context] cx: &TaskContext`")
        }
        Kind::State => (
            true,
            "a `#[state]` parameter is a mutable reference: `#[state] model: &mut Model`, where \
             `Model: WorkerState`",
        ),
    };
    let right = matches!(ty, Type::Reference(reference)
        if reference.mutability.is_some() == mutable
            && reference.lifetime.as_ref().is_none_or(|lifetime| lifetime.ident != "static"));
    if !right {
        errors.push(Error::new_spanned(ty, message));
    }
}

/// Whether an attribute is about the function that callers see, not about the code that runs.
fn is_outer(meta: &Meta) -> bool {
    const OUTER: [&str; 9] =
        ["doc", "cfg", "allow", "warn", "deny", "forbid", "expect", "deprecated", "must_use"];
    let path = meta.path();
    if path.is_ident("cfg_attr")
        && let Meta::List(list) = meta
        && let Ok(parts) = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
    {
        return parts.iter().skip(1).all(is_outer);
    }
    match path.segments.first() {
        Some(first) if path.segments.len() > 1 => first.ident == "rustfmt" || first.ident == "clippy",
        Some(first) => OUTER.contains(&first.ident.unraw().to_string().as_str()),
        None => false,
    }
}
