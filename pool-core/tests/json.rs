//! Types that postcard cannot carry, carried as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use pool_core::{Builder, Json, Pool, RunHereError, TaskError, Transport, task};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pool_core::test_worker!();

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat {
    name: String,
    #[serde(flatten)]
    rest: BTreeMap<String, u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(i64),
    Text(String),
    Both { number: i64, text: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Circle { radius: f64 },
    Square { side: f64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    note: Json<Untagged>,
    shapes: Vec<Json<Tagged>>,
}

/// `serde_json` makes the type of `[]` ambiguous beside numbers and strings; nothing of ours adds to that.
#[test]
fn an_empty_array_is_compared_without_a_type() {
    assert_eq!(Vec::<Json<u64>>::new(), []);
    assert_eq!(Vec::<Json<String>>::new(), []);
}

#[task]
fn flat(value: Json<Flat>) -> Json<Flat> {
    value
}

#[task]
fn untagged(value: &Json<Untagged>) -> Json<Untagged> {
    value.clone()
}

#[task]
fn tagged(value: Json<Tagged>) -> Json<Tagged> {
    value
}

#[task]
fn value(value: Json<Value>, key: &str) -> Json<Value> {
    Json(value[key].clone())
}

#[task]
fn order(order: Order) -> Result<Order, String> {
    Ok(order)
}

#[task]
fn same(value: Json<Value>) -> Json<Value> {
    value
}

#[task]
fn bare_flat(value: &Flat) {
    drop(value.clone());
}

#[task]
fn gives_bare_flat() -> Flat {
    Flat { name: "a".to_owned(), rest: BTreeMap::new() }
}

#[task]
fn bare_tagged(value: Tagged) {
    let _ = value;
}

#[task]
fn bare_value(value: Value) {
    drop(value);
}

#[task]
fn gives_bare_value() -> Value {
    json!({ "a": 1 })
}

#[task]
fn keyed(map: Json<BTreeMap<(u8, u8), u8>>) {
    drop(map);
}

fn builders() -> [Builder; 2] {
    [Transport::Rings, Transport::Pipes]
        .map(|transport| Pool::builder().name("json").workers(2).transport(transport))
}

#[test]
fn flattened_untagged_and_tagged_values_and_any_json_go_there_and_back() {
    for builder in builders() {
        let pool = builder.build().unwrap();
        let sent =
            Flat { name: "n".to_owned(), rest: [("a", 1), ("b", 2)].map(|(k, v)| (k.to_owned(), v)).into() };
        assert_eq!(pool.apply(flat(Json(sent.clone()))).unwrap().0, sent);
        for sent in [
            Untagged::Number(-3),
            Untagged::Text("x".to_owned()),
            Untagged::Both { number: 1, text: "y".to_owned() },
        ] {
            assert_eq!(*pool.apply(untagged(&Json(sent.clone()))).unwrap(), sent);
        }
        for sent in [Tagged::Circle { radius: 0.5 }, Tagged::Square { side: 2.0 }] {
            assert_eq!(pool.apply(tagged(sent.clone().into())).unwrap(), Json(sent));
        }
        let document = json!({ "a": [1, 2.5, null, "ü"], "b": { "c": true } });
        assert_eq!(pool.apply(value(Json(document.clone()), "a")).unwrap().0, document["a"]);
        assert_eq!(pool.apply(value(Json(document), "none")).unwrap().0, Value::Null);
    }
}

#[test]
fn they_may_be_parts_of_other_types() {
    let [builder, _] = builders();
    let pool = builder.build().unwrap();
    let sent = Order {
        id: 7,
        note: Json(Untagged::Text("fragile".to_owned())),
        shapes: vec![Json(Tagged::Circle { radius: 1.0 }), Json(Tagged::Square { side: 3.0 })],
    };
    assert_eq!(pool.apply(order(sent.clone())).unwrap().unwrap(), sent);
    let results = pool.map(|n| tagged(Json(Tagged::Square { side: f64::from(n) })), 0..1000).unwrap();
    assert!((0..).zip(results).all(|(n, found)| *found == Tagged::Square { side: f64::from(n) }));
}

#[test]
fn large_ones_go_through_shared_memory() {
    for builder in builders() {
        let pool = builder.build().unwrap();
        let text: String = "json ".repeat(200_000);
        let sent = json!({ "text": text });
        assert_eq!(pool.apply(same(Json(sent.clone()))).unwrap().0, sent);
    }
}

/// What every error of these says.
const HINT: &str = "wrap it in `pool_core::Json`";

#[test]
fn without_it_the_error_suggests_it_whichever_way_it_fails() {
    let [builder, _] = builders();
    let pool = builder.build().unwrap();
    let bare = gives_bare_flat().run_here();
    assert!(matches!(&bare, Err(RunHereError::Encode(why)) if why.contains(HINT)), "{bare:?}");
    let flat = Flat { name: "a".to_owned(), rest: BTreeMap::new() };
    let errors = [
        ("flat: &Flat", pool.apply(bare_flat(&flat)).unwrap_err()),
        ("`Flat`", pool.apply(gives_bare_flat()).unwrap_err()),
        ("value: Tagged", pool.apply(bare_tagged(Tagged::Square { side: 1.0 })).unwrap_err()),
        ("value: Value", pool.apply(bare_value(json!([1]))).unwrap_err()),
        ("`Value`", pool.apply(gives_bare_value()).unwrap_err()),
    ];
    for (named, error) in errors {
        let text = error.to_string();
        assert!(matches!(error, TaskError::Encode { .. } | TaskError::Decode { .. }), "{error:?}");
        assert!(text.contains(named.trim_start_matches("flat: ")) && text.contains(HINT), "{text}");
    }
}

#[test]
fn what_json_cannot_carry_is_said_by_name() {
    let map = [((1, 2), 3)].into();
    let error = keyed(Json(map)).run_here().unwrap_err().to_string();
    assert!(error.starts_with("argument `map: ") && error.contains("cannot be written as JSON: key must be"));
    // What one side has written does not fit the type of the other.
    let [builder, _] = builders();
    let pool = builder.build().unwrap();
    let error = pool.apply(misfit()).unwrap_err();
    assert!(error.to_string().contains("cannot be read from its JSON"), "{error}");
    assert!(pool.shutdown(Duration::from_secs(20)));
}

/// Writes what it does not read.
#[derive(Debug)]
struct Misfit;

impl Serialize for Misfit {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for Misfit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|_| Self)
    }
}

#[task]
fn misfit() -> Json<Misfit> {
    Json(Misfit)
}

#[test]
fn in_a_readable_format_it_is_its_value() {
    let order =
        Order { id: 1, note: Json(Untagged::Number(2)), shapes: vec![Json(Tagged::Circle { radius: 1.0 })] };
    let text = serde_json::to_value(&order).unwrap();
    let expected = json!({ "id": 1, "note": 2, "shapes": [{ "kind": "Circle", "radius": 1.0 }] });
    assert_eq!(text, expected);
    assert_eq!(serde_json::from_value::<Order>(text).unwrap(), order);
}
