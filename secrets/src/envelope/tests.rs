use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};

use super::*;
use crate::keyring::Keyring;

const ROW: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const SECRET: &str = "sk-0123456789abcdef";

/// Computed with Python's `cryptography` from the words of this file's head alone.
const KNOWN: &str = "01000000070202020202020202020202026829221a021f229c432d87e115d26f1c0df9cbc01c3aab4248a7f93ebfa59b93853db856ffdd1ca0a6d7b30d8345d27a\
                     0303030303030303030303038b0a39aaceb6045d98cad15ff57846cbdc56c7160b2008afbb6ff42cfa3d0192f1b7dc";

fn place() -> Place<'static> {
    Place {
        owner: "user:00000000-0000-0000-0000-000000000001",
        table: "credential",
        row: &ROW,
        purpose: "provider_key https://api.openai.com",
    }
}

fn keyring(text: &str) -> Keyring {
    Keyring::parse(&SecretString::from(text)).unwrap()
}

fn ours() -> Keyring {
    keyring(&format!("7:{} 8:{}", "k".repeat(32), "l".repeat(32)))
}

fn known() -> Vec<u8> {
    KNOWN.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn opened(keys: &Keyring, place: &Place<'_>, sealed: &[u8]) -> Result<String, OpenError> {
    open(keys, place, sealed).map(|secret| secret.expose_secret().to_owned())
}

#[test]
fn the_format_is_what_its_description_says() {
    let sealed = seal(&ours(), &place(), Fresh::fixed(1, 2, 3), &SecretString::from(SECRET)).unwrap();
    assert_eq!(sealed, known());
    assert_eq!(sealed.len(), OVERHEAD + SECRET.len());
    assert_eq!(OVERHEAD, 93);
    assert_eq!(opened(&ours(), &place(), &known()).as_deref(), Ok(SECRET));
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let known = known();
    for at in 0..known.len() {
        for bit in 0..8 {
            let mut changed = known.clone();
            changed[at] ^= 1 << bit;
            let error = opened(&ours(), &place(), &changed).unwrap_err();
            match at {
                0 => assert_eq!(error, OpenError::UnknownFormat),
                // Key 7 becomes another number; 8 of them is ours too, and does not fit.
                1..=4 => assert!(matches!(error, OpenError::UnknownKek(_)), "byte {at} bit {bit}: {error}"),
                _ => assert_eq!(error, OpenError::Damaged, "byte {at} bit {bit}"),
            }
        }
    }
}

#[test]
fn a_cut_or_longer_text_is_noticed() {
    let known = known();
    for length in 0..known.len() {
        assert_eq!(opened(&ours(), &place(), &known[..length]), Err(OpenError::Damaged), "{length} bytes");
    }
    let longer = [known.as_slice(), &[0]].concat();
    assert_eq!(opened(&ours(), &place(), &longer), Err(OpenError::Damaged));
}

#[test]
fn a_secret_opens_in_its_own_place_only() {
    let row = [9; 16];
    for moved in [
        Place { owner: "user:00000000-0000-0000-0000-000000000002", ..place() },
        Place { table: "other", ..place() },
        Place { row: &row, ..place() },
        Place { purpose: "provider_key https://evil.example", ..place() },
        // The borders between the parts count.
        Place { table: "credentia", purpose: "lprovider_key https://api.openai.com", ..place() },
    ] {
        assert_eq!(opened(&ours(), &moved, &known()), Err(OpenError::Damaged), "{moved:?}");
    }
}

#[test]
fn parts_of_two_secrets_do_not_make_a_third() {
    let other = seal(&ours(), &place(), Fresh::draw().unwrap(), &SecretString::from(SECRET)).unwrap();
    let mixed = [&known()[..HEAD + WRAPPED], &other[HEAD + WRAPPED..]].concat();
    assert_eq!(opened(&ours(), &place(), &mixed), Err(OpenError::Damaged));
}

#[test]
fn a_missing_key_is_told_from_damage() {
    let without = keyring(&format!("8:{}", "l".repeat(32)));
    assert_eq!(opened(&without, &place(), &known()), Err(OpenError::UnknownKek(KekId(7))));
    let wrong = keyring(&format!("7:{}", "x".repeat(32)));
    assert_eq!(opened(&wrong, &place(), &known()), Err(OpenError::Damaged));
    assert_eq!(kek_of(&known()), Ok(KekId(7)));
    assert_eq!(kek_of(&[]), Err(OpenError::Damaged));
    assert_eq!(kek_of(&[2]), Err(OpenError::UnknownFormat));
}

#[test]
fn no_two_seals_are_alike() {
    let seal = || seal(&ours(), &place(), Fresh::draw().unwrap(), &SecretString::from(SECRET)).unwrap();
    let (one, two) = (seal(), seal());
    for part in [HEAD..HEAD + NONCE, HEAD + NONCE..HEAD + WRAPPED, HEAD + WRAPPED..one.len()] {
        assert_ne!(one[part.clone()], two[part]);
    }
    for sealed in [one, two] {
        assert!(!sealed.windows(6).any(|window| SECRET.as_bytes().windows(6).any(|clear| clear == window)));
        assert_eq!(opened(&ours(), &place(), &sealed).as_deref(), Ok(SECRET));
    }
}

#[test]
fn a_place_has_bounds() {
    let long = "x".repeat(65_536);
    let place = Place { purpose: &long, ..place() };
    let sealed = seal(&ours(), &place, Fresh::draw().unwrap(), &SecretString::from(SECRET));
    assert_eq!(sealed, Err(SealError::PlaceTooLong));
    assert_eq!(opened(&ours(), &place, &known()), Err(OpenError::Damaged));
}

proptest! {
    #[test]
    fn what_was_sealed_opens(secret in ".{0,300}", owner in ".{0,40}", purpose in ".{0,40}", row in any::<[u8; 16]>()) {
        let place = Place { owner: &owner, table: "credential", row: &row, purpose: &purpose };
        let sealed = seal(&ours(), &place, Fresh::draw().unwrap(), &SecretString::from(secret.as_str())).unwrap();
        prop_assert_eq!(opened(&ours(), &place, &sealed), Ok(secret));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(opened(&ours(), &place(), &bytes).is_err());
        let ours_by_name = [&[1, 0, 0, 0, 7], bytes.as_slice()].concat();
        prop_assert_eq!(opened(&ours(), &place(), &ours_by_name), Err(OpenError::Damaged));
    }
}
