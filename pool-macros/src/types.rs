//! The types in a task's signature: which of them can travel, and their normal form.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{Error, Ident, Lifetime, Type, TypeReference};

/// `ty` without the invisible groups and parentheses that `macro_rules!` and habit leave around types.
pub(crate) fn ungrouped(ty: &Type) -> Type {
    struct Ungroup;
    impl VisitMut for Ungroup {
        fn visit_type_mut(&mut self, ty: &mut Type) {
            loop {
                let inner = match ty {
                    Type::Group(group) => &group.elem,
                    Type::Paren(paren)
                        if !matches!(*paren.elem, Type::TraitObject(_) | Type::ImplTrait(_)) =>
                    {
                        &paren.elem
                    }
                    _ => break,
                };
                *ty = Type::clone(inner);
            }
            visit_mut::visit_type_mut(self, ty);
        }
    }
    let mut ty = ty.clone();
    Ungroup.visit_type_mut(&mut ty);
    ty
}

/// `ty` with every lifetime but `'static` left to inference: its form outside the function's own signature.
pub(crate) fn inferred(ty: &Type) -> Type {
    struct Infer;
    impl VisitMut for Infer {
        fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
            if lifetime.ident != "static" {
                lifetime.ident = Ident::new("_", lifetime.ident.span());
            }
        }
        fn visit_type_reference_mut(&mut self, reference: &mut TypeReference) {
            reference.lifetime = None;
            visit_mut::visit_type_reference_mut(self, reference);
        }
    }
    let mut ty = ty.clone();
    Infer.visit_type_mut(&mut ty);
    ty
}

/// Reports what cannot be an argument of a task.
pub(crate) fn check_argument(ty: &Type, errors: &mut Vec<Error>) {
    Check { result: false, errors }.visit_type(ty);
}

/// Reports what cannot be the result of a task.
pub(crate) fn check_result(ty: &Type, errors: &mut Vec<Error>) {
    Check { result: true, errors }.visit_type(ty);
}

struct Check<'e> {
    result: bool,
    errors: &'e mut Vec<Error>,
}

impl Check<'_> {
    fn refuse(&mut self, culprit: impl ToTokens, message: &str) {
        self.errors.push(Error::new_spanned(culprit, message));
    }
}

const BORROWED_RESULT: &str = "the result of a task cannot borrow, because it is made in another process: \
                               return an owned value (`String`, `Vec<u8>`, …)";

impl<'ast> Visit<'ast> for Check<'_> {
    fn visit_type(&mut self, ty: &'ast Type) {
        match ty {
            Type::ImplTrait(_) if self.result => {
                self.refuse(ty, "a task cannot return `impl Trait`: name the type, so that it can be decoded")
            }
            Type::ImplTrait(_) => self.refuse(
                ty,
                "a task cannot take `impl Trait`: it is found by name in another process, so name the type",
            ),
            Type::TraitObject(_) if self.result => self.refuse(
                ty,
                "a trait object cannot travel to another process: name a concrete type; of an error, return its text \
                 (`Result<T, String>` and `.map_err(|error| error.to_string())`)",
            ),
            Type::TraitObject(_) => {
                self.refuse(ty, "a trait object cannot travel to another process: name a concrete type")
            }
            Type::FnPtr(_) => self.refuse(
                ty,
                "a function pointer means nothing in another process: send what the worker can choose by, \
                 for example an enum",
            ),
            Type::Ptr(_) => {
                self.refuse(ty, "a raw pointer means nothing in another process: send the value or its bytes")
            }
            Type::Never(_) if self.result => self.refuse(
                ty,
                "a task that never returns has no result: return `()` or the reason why it stopped",
            ),
            _ => visit::visit_type(self, ty),
        }
    }

    fn visit_type_reference(&mut self, reference: &'ast TypeReference) {
        if self.result {
            return self.refuse(reference, BORROWED_RESULT);
        }
        if reference.mutability.is_some() {
            return self.refuse(
                reference,
                "a task cannot take `&mut`: the change would be made in another process and lost; take the \
                 value and return it (what a worker keeps between tasks is a `#[state]` parameter)",
            );
        }
        if reference.lifetime.as_ref().is_some_and(|lifetime| lifetime.ident == "static") {
            return self.refuse(
                reference,
                "a task cannot take a `'static` reference: its arguments live as long as the call; leave out \
                 `'static`",
            );
        }
        visit::visit_type_reference(self, reference);
    }

    fn visit_lifetime(&mut self, lifetime: &'ast Lifetime) {
        if self.result && lifetime.ident != "static" {
            self.refuse(lifetime, BORROWED_RESULT);
        }
    }
}

/// `ty` as text that does not depend on how its source was laid out.
pub(crate) fn text(ty: &Type) -> String {
    let mut text = String::new();
    write(&mut text, ty.to_token_stream());
    text
}

fn write(text: &mut String, tokens: TokenStream) {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for token in tokens {
        match token {
            TokenTree::Punct(punct) => match punct.as_char() {
                c @ (',' | ';') => text.extend([c, ' ']),
                c @ ('+' | '=') => text.extend([' ', c, ' ']),
                '-' => text.push_str(" -"),
                '>' if text.ends_with(" -") => text.push_str("> "),
                '>' => {
                    trim_comma(text);
                    text.push('>');
                }
                '\'' if text.ends_with(is_word) => text.push_str(" '"),
                c => text.push(c),
            },
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::None => ("", ""),
                };
                text.push_str(open);
                let start = text.len();
                write(text, group.stream());
                // `(T,)` is not `(T)`
                if group.delimiter() == Delimiter::Parenthesis && text[start..].matches(", ").count() == 1 {
                    text.truncate(text.trim_end().len());
                } else {
                    trim_comma(text);
                }
                text.push_str(close);
            }
            word => {
                if text.ends_with(is_word) {
                    text.push(' ');
                }
                text.push_str(&word.to_string());
            }
        }
    }
}

fn trim_comma(text: &mut String) {
    if text.ends_with(", ") {
        text.truncate(text.len() - 2);
    }
}
