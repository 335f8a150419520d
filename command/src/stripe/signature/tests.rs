//! Forty ways to sign, and not to.

use super::*;

const NOW: i64 = 1_764_000_000;
const BODY: &[u8] = br#"{"id":"evt_1","type":"checkout.session.completed","data":{"object":{}}}"#;

fn secret() -> SecretString {
    SecretString::from("whsec_test".to_owned())
}

fn signed(at: i64) -> String {
    sign(&secret(), BODY, at)
}

/// The bare code of a header.
fn code(header: &str) -> String {
    header.split_once("v1=").unwrap().1.to_owned()
}

#[test]
fn a_known_answer() {
    // openssl dgst -sha256 -hmac whsec_test over "1764000000." and the body.
    let expected = "4f96748d68fa89f609c83851e8a98602c0d9762fcc5bc7c698c980211b7522ed";
    assert_eq!(code(&sign(&secret(), b"{}", NOW)), expected);
}

#[test]
fn forty_vectors() {
    use SignatureError::{Invalid, Missing, NoTimestamp};
    let good = code(&signed(NOW));
    let forged = code(&sign(&SecretString::from("whsec_other".to_owned()), BODY, NOW));
    let t = format!("t={NOW}");
    let of = |text: String| Some(text);
    let vectors: Vec<(&str, Option<String>, Result<(), SignatureError>)> = vec![
        ("now", of(signed(NOW)), Ok(())),
        ("300 s old", of(signed(NOW - 300)), Ok(())),
        ("300 s ahead", of(signed(NOW + 300)), Ok(())),
        ("301 s old", of(signed(NOW - 301)), Err(Invalid)),
        ("301 s ahead", of(signed(NOW + 301)), Err(Invalid)),
        ("three days old", of(signed(NOW - 259_200)), Err(Invalid)),
        ("time zero", of(signed(0)), Err(Invalid)),
        ("two, the first right", of(format!("{t},v1={good},v1={forged}")), Ok(())),
        ("two, the second right", of(format!("{t},v1={forged},v1={good}")), Ok(())),
        ("two, none right", of(format!("{t},v1={forged},v1={forged}")), Err(Invalid)),
        ("the time behind", of(format!("v1={good},{t}")), Ok(())),
        ("blanks between", of(format!(" {t} , v1={good} ")), Ok(())),
        ("upper case", of(format!("{t},v1={}", good.to_uppercase())), Ok(())),
        ("another scheme beside", of(format!("{t},v1={good},v0={forged}")), Ok(())),
        ("a scheme of later", of(format!("{t},v2={good},v1={good}")), Ok(())),
        ("only v0", of(format!("{t},v0={good}")), Err(Invalid)),
        ("only v2", of(format!("{t},v2={good}")), Err(Invalid)),
        ("V1 is not v1", of(format!("{t},V1={good}")), Err(Invalid)),
        ("no header", None, Err(Missing)),
        ("an empty header", of(String::new()), Err(Missing)),
        ("a blank header", of("  ".into()), Err(Missing)),
        ("no time", of(format!("v1={good}")), Err(NoTimestamp)),
        ("an empty time", of(format!("t=,v1={good}")), Err(NoTimestamp)),
        ("a word for time", of(format!("t=now,v1={good}")), Err(NoTimestamp)),
        ("a negative time", of(format!("t=-{NOW},v1={good}")), Err(NoTimestamp)),
        ("a plus before the time", of(format!("t=+{NOW},v1={good}")), Err(NoTimestamp)),
        ("a time with decimals", of(format!("t={NOW}.0,v1={good}")), Err(NoTimestamp)),
        ("a time beyond 64 bits", of(format!("t=99999999999999999999,v1={good}")), Err(NoTimestamp)),
        ("two times", of(format!("{t},t={NOW},v1={good}")), Err(Invalid)),
        ("another time than was signed", of(format!("t={},v1={good}", NOW + 1)), Err(Invalid)),
        ("zeros before the time", of(format!("t=0{NOW},v1={good}")), Err(Invalid)),
        ("no signature", of(t.clone()), Err(Invalid)),
        ("an empty signature", of(format!("{t},v1=")), Err(Invalid)),
        ("a short signature", of(format!("{t},v1={}", &good[..62])), Err(Invalid)),
        ("a long signature", of(format!("{t},v1={good}00")), Err(Invalid)),
        ("not hexadecimal", of(format!("{t},v1={}", "z".repeat(64))), Err(Invalid)),
        ("a sign in the hexadecimal", of(format!("{t},v1=+{}", &good[1..])), Err(Invalid)),
        ("another secret", of(format!("{t},v1={forged}")), Err(Invalid)),
        ("no pairs at all", of("nonsense".into()), Err(NoTimestamp)),
        ("64 KiB", of(format!("{t},v1={good},x={}", "a".repeat(65_536))), Err(Invalid)),
        (
            "the right one is the seventeenth",
            of(format!("{t}{},v1={good}", format!(",v1={forged}").repeat(16))),
            Err(Invalid),
        ),
    ];
    assert!(vectors.len() >= 40);
    for (what, header, expected) in vectors {
        assert_eq!(verify(&secret(), header.as_deref(), BODY, NOW), expected, "{what}");
    }
}

#[test]
fn every_byte_of_the_body_counts() {
    let header = signed(NOW);
    for at in 0..BODY.len() {
        let mut body = BODY.to_vec();
        body[at] ^= 1;
        assert_eq!(verify(&secret(), Some(&header), &body, NOW), Err(SignatureError::Invalid), "byte {at}");
    }
    let reserialised = serde_json::to_vec_pretty(&serde_json::from_slice::<serde_json::Value>(BODY).unwrap()).unwrap();
    for body in [reserialised, [BODY, b"\n"].concat(), [b" ", BODY].concat(), BODY[1..].to_vec(), Vec::new()] {
        assert_eq!(verify(&secret(), Some(&header), &body, NOW), Err(SignatureError::Invalid));
    }
}
