//! How answers of the server are read.

use super::*;

#[test]
fn headers_are_read_from_their_wire_form() {
    let headers =
        read_headers(b"NATS/1.0\r\nContent-Type: application/json\r\nA: 1\r\nA:2\r\nnone\r\n\r\n");
    assert_eq!(
        headers.get("Content-Type").expect("there").as_str(),
        "application/json"
    );
    assert_eq!(headers.get_all("A").count(), 2);
    assert!(read_headers(b"").is_empty());
}

#[test]
fn headers_that_break_a_connection_are_known() {
    for good in [
        "",
        "NATS/1.0\r\n\r\n",
        "NATS/1.0\r\nA: b\r\n c\r\n\r\n",
        "NATS/1.0 404 No Messages\r\n\r\n",
    ] {
        assert!(is_readable(good.as_bytes()), "{good:?}");
    }
    for bad in [
        "x",
        "NATS/1.0\r\nno colon\r\n\r\n",
        "NATS/1.0\r\na b: c\r\n\r\n",
        "NATS/1.0 x\r\n\r\n",
    ] {
        assert!(!is_readable(bad.as_bytes()), "{bad:?}");
    }
    assert!(!is_readable(b"NATS/1.0\r\nA: \xff\r\n\r\n"));
}

#[test]
fn a_refusal_keeps_its_code() {
    let answer = br#"{"error":{"code":400,"err_code":10077,"description":"maximum messages per subject exceeded"}}"#;
    let error = read_answer::<PublishAck>("s", answer).expect_err("refused");
    assert_eq!(error.code(), Some(code::NOT_STORED));
    assert!(!error.is_outage());
    let full =
        br#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}"#;
    let error = read_answer::<PublishAck>("s", full).expect_err("refused");
    assert!(matches!(error, ApiError::Refused { .. }), "{error}");
    let away = br#"{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}"#;
    assert!(
        read_answer::<PublishAck>("s", away)
            .expect_err("an outage")
            .is_outage()
    );
    assert!(read_answer::<PublishAck>("s", b"nonsense").is_err());
}
