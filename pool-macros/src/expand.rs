//! What `#[task]` writes.

use proc_macro2::{Delimiter, Group, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{FnArg, Ident, Type};

use crate::item::{Item, Kind, Parameter};
use crate::options::Options;
use crate::sources;
use crate::types;

/// The function that makes the call, and inside it the body, the code that runs it, and the table entry.
pub(crate) fn expand(options: &Options, item: &Item) -> TokenStream {
    let Item { outer_attributes, inner_attributes, visibility, signature, parameters, result, body } = item;
    let krate = &options.krate;
    let private = quote!(#krate::__private);
    let ident = &signature.ident;
    let generics = &signature.generics;
    let where_clause = &generics.where_clause;
    let output = &signature.output;
    let inner_inputs = signature.inputs.iter().filter(|input| matches!(input, FnArg::Typed(_)));

    let arguments = || parameters.iter().filter(|parameter| parameter.kind == Kind::Argument);
    let names = arguments().map(|argument| &argument.name);
    let argument_types = arguments().map(|argument| &argument.ty);
    let encode: Vec<TokenStream> = arguments().map(|argument| encode(argument, &private)).collect();
    let encode = match &encode[..] {
        [] => quote_spanned!(Span::mixed_site()=> |_| {}),
        encode => quote_spanned!(Span::mixed_site()=> |arguments| { #(#encode)* }),
    };

    let unit: Type = syn::parse_quote!(());
    let result_type = result.as_ref().map_or_else(|| unit.clone(), types::inferred);
    let result_label = types::text(&result_type);
    let run = run(parameters, &result_type, &result_label, &private);
    let describe = describe(parameters, &private);
    let with_arguments =
        describe.as_ref().map(|_| quote_spanned!(Span::mixed_site()=> .with_arguments(&__TASK_ARGUMENTS)));
    let decode_result =
        wire(&result_type, "decode_reply", quote_spanned!(Span::mixed_site()=> encoded), &private);

    let name = match &options.name {
        Some(name) => quote!(#name),
        None => {
            let name = ident.unraw().to_string();
            quote!(::core::concat!(::core::module_path!(), "::", #name))
        }
    };
    let shape = shape(parameters, result.as_ref());
    let state = parameters.iter().find(|parameter| parameter.kind == Kind::State).map(|parameter| {
        let ty = types::inferred(referent(&parameter.ty).0);
        quote_spanned!(Span::mixed_site().located_at(parameter.ty.span())=>
            static __TASK_STATE: #private::StateEntry = #private::StateEntry::of::<#ty>();
        )
    });
    let with_state = state.as_ref().map(|_| quote_spanned!(Span::mixed_site()=> .with_state(&__TASK_STATE)));
    let with_version =
        options.version.map(|version| quote_spanned!(Span::mixed_site()=> .with_version(#version)));
    let sources = format!(" (sources {})", sources::fingerprint());

    // the names of arguments and of the code around them must not meet: `mixed_site` keeps them apart
    quote_spanned! {Span::mixed_site()=>
        #(#outer_attributes)*
        #visibility fn #ident #generics (#(#names: #argument_types),*) -> #krate::Call<#result_type>
        #where_clause
        {
            #[allow(unused_imports, reason = "not used if every type has a codec of its own")]
            use #private::{Opaque as _, Serde as _};

            #(#inner_attributes)*
            fn __task_body #generics (#(#inner_inputs),*) #output #where_clause #body

            #state

            #run

            #describe

            fn __task_decode(
                encoded: #private::Encoded<'_>,
            ) -> ::core::result::Result<#result_type, ::std::string::String> {
                #private::decode_result(#result_label, #decode_result)
            }

            #[#private::linkme::distributed_slice(#private::TASKS)]
            #[linkme(crate = #private::linkme)]
            static __TASK_ENTRY: #private::TaskEntry = #private::TaskEntry::new(
                #name,
                ::core::concat!(
                    ::core::env!("CARGO_PKG_NAME"), " ", ::core::env!("CARGO_PKG_VERSION"), ": ", #shape, #sources
                ),
                __task_run,
            ).with_fallible(#private::Wire::<#result_type>::FALLIBLE) #with_state #with_arguments #with_version;

            #private::call(&__TASK_ENTRY, #encode, __task_decode)
        }
    }
}

/// The function in the table: decodes the arguments, runs the body, encodes the result.
fn run(parameters: &[Parameter], result: &Type, result_label: &str, private: &TokenStream) -> TokenStream {
    let mixed = Span::mixed_site();
    let mut decode = Vec::new();
    let mut pass = Vec::new();
    for (index, parameter) in parameters.iter().enumerate() {
        let (value, ty, decoded) = decode_argument(parameter, index, private);
        let span = mixed.located_at(parameter.ty.span());
        pass.push(match parameter.kind {
            Kind::Argument => {
                decode.push(decoded);
                if referent(&parameter.ty).1 { quote!(&*#value) } else { quote!(#value) }
            }
            Kind::Context => quote_spanned!(span=> run.context),
            Kind::State => quote_spanned!(span=> run.states.get_or_init::<#ty>(&__TASK_STATE, run.context)?),
        });
    }
    let encode = wire(result, "encode_reply", quote_spanned!(mixed=> &result, output), private);
    let decoded = (!decode.is_empty()).then(|| quote_spanned!(mixed=> run.decoded();));
    quote_spanned! {mixed=>
        #[allow(unused_variables, clippy::let_unit_value, reason = "depends on the signature")]
        fn __task_run(
            run: &mut #private::RunContext<'_>,
            mut input: &[u8],
            output: &mut #private::Buffer,
        ) -> ::core::result::Result<(), #private::RunError> {
            #(#decode)*
            #private::finish(input)?;
            #decoded
            let result = __task_body(#(#pass),*);
            #private::encode_result(#result_label, output, |output| #encode)
        }
    }
}

/// The function that decodes the arguments to show them, and what is known of them without; nothing if there are none.
fn describe(parameters: &[Parameter], private: &TokenStream) -> Option<TokenStream> {
    let mixed = Span::mixed_site();
    let (mut decode, mut show, mut named) = (Vec::new(), Vec::new(), Vec::new());
    for (index, parameter) in parameters.iter().enumerate() {
        if parameter.kind != Kind::Argument {
            continue;
        }
        let (name, text) = (parameter.name.unraw().to_string(), types::text(&types::inferred(&parameter.ty)));
        named.push(quote!((#name, #text)));
        let (value, ty, decoded) = decode_argument(parameter, index, private);
        decode.push(decoded);
        let shown = if referent(&parameter.ty).1 { quote!(&*#value) } else { quote!(&#value) };
        show.push(quote_spanned!(mixed=> #private::Show::<#ty>::show(#shown, description);));
    }
    (!named.is_empty()).then(|| {
        quote_spanned! {mixed=>
            #[cold]
            fn __task_describe(
                mut input: &[u8],
                description: &mut #private::Description,
            ) -> ::core::result::Result<(), #private::RunError> {
                #(#decode)*
                #private::finish(input)?;
                #(#show)*
                ::core::result::Result::Ok(())
            }

            static __TASK_ARGUMENTS: #private::Signature =
                #private::Signature::new(&[#(#named),*], __task_describe);
        }
    })
}

/// The name and the type of the value that an argument is decoded to, and the step that does so.
fn decode_argument(argument: &Parameter, index: usize, private: &TokenStream) -> (Ident, Type, TokenStream) {
    let mixed = Span::mixed_site();
    let (referent, borrowed) = referent(&argument.ty);
    let ty = types::inferred(referent);
    let value = Ident::new(&format!("value{index}"), mixed);
    let label = label(argument);
    let function = if borrowed { "decode_ref" } else { "decode" };
    let decoded = wire(&ty, function, quote_spanned!(mixed=> &mut input), private);
    let decode = quote_spanned!(mixed=> let #value = #private::argument(#label, #decoded)?;);
    (value, ty, decode)
}

/// The step of the call that encodes one argument.
fn encode(argument: &Parameter, private: &TokenStream) -> TokenStream {
    let mixed = Span::mixed_site();
    let (ty, borrowed) = referent(&argument.ty);
    let (label, name) = (label(argument), &argument.name);
    let value = if borrowed { quote!(#name) } else { quote!(&#name) };
    let encode = wire(&types::inferred(ty), "encode", quote_spanned!(mixed=> #value, output), private);
    quote_spanned!(mixed=> arguments.push(#label, |output| #encode);)
}

/// `T` and true for `&T`, otherwise the type itself and false.
fn referent(ty: &Type) -> (&Type, bool) {
    match ty {
        Type::Reference(reference) => (&reference.elem, true),
        ty => (ty, false),
    }
}

/// A call of the codec of `ty`, placed so that an error about it points at `ty` in the user's signature.
fn wire(ty: &Type, function: &str, value: TokenStream, private: &TokenStream) -> TokenStream {
    let mut spans = ty.to_token_stream().into_iter().map(|token| token.span());
    let first = spans.next().unwrap_or_else(Span::mixed_site);
    let start = Span::mixed_site().located_at(first);
    let end = Span::mixed_site().located_at(spans.last().unwrap_or(first));
    let function = Ident::new(function, end);
    let private = moved(private, start);
    let mut values = Group::new(Delimiter::Parenthesis, moved(&value, end));
    values.set_span(end);
    quote_spanned!(start=> #private::Wire::<#ty>::#function #values)
}

/// `tokens` at the place of `span`, meaning what they meant.
fn moved(tokens: &TokenStream, span: Span) -> TokenStream {
    let moved = tokens.clone().into_iter().map(|mut token| {
        token.set_span(token.span().located_at(span));
        token
    });
    moved.collect()
}

/// What error messages call an argument.
fn label(argument: &Parameter) -> String {
    format!("{}: {}", argument.name.unraw(), types::text(&types::inferred(&argument.ty)))
}

/// The signature as text: the types that travel.
fn shape(parameters: &[Parameter], result: Option<&Type>) -> String {
    let text = |ty: &Type| types::text(&types::inferred(ty));
    let arguments = parameters.iter().filter(|parameter| parameter.kind == Kind::Argument);
    let arguments: Vec<String> = arguments.map(|argument| text(&argument.ty)).collect();
    let result = result.map(|ty| format!(" -> {}", text(ty))).unwrap_or_default();
    format!("fn({}){result}", arguments.join(", "))
}
