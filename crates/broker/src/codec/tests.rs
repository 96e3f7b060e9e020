//! Frames there and back, whole and in pieces, and bytes that are none.

use std::{collections::BTreeMap, sync::Arc};

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, ProtocolVersion, WriteContext, gen_frame},
    protocol::{AMQPClass, BasicProperties, basic, channel, connection, queue},
    types::{AMQPValue, FieldArray, FieldTable, ShortString},
};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::engine::{ContentMethod, Frame, Malformed, Message, Output};

fn written(frame: &AMQPFrame) -> Vec<u8> {
    let context = WriteContext::from(Vec::new());
    gen_frame(frame)(context).unwrap().into_inner().0
}

fn expected(frame: &AMQPFrame) -> Frame {
    match frame.clone() {
        AMQPFrame::Method(channel, class) => Frame::Method(channel, class),
        AMQPFrame::Header(channel, header) => Frame::Header(channel, Box::new(header)),
        AMQPFrame::Body(channel, body) => Frame::Body(channel, Bytes::from(body)),
        AMQPFrame::Heartbeat => Frame::Heartbeat,
        other => unreachable!("{other:?} is not generated"),
    }
}

/// A decoder behind the protocol header, for frames of up to 128 KiB.
fn begun() -> Decoder {
    let mut decoder = Decoder::new();
    let mut header = BytesMut::from(&PROTOCOL_HEADER[..]);
    let version = ProtocolVersion::amqp_0_9_1();
    assert_eq!(
        decoder.next(&mut header),
        Ok(Some(Frame::ProtocolHeader(version)))
    );
    decoder.agree(131_072);
    decoder
}

fn decode_one(bytes: &[u8]) -> Result<Option<Frame>, Malformed> {
    begun().next(&mut BytesMut::from(bytes))
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend(payload);
    bytes.push(FRAME_END);
    bytes
}

fn declare(arguments: FieldTable) -> AMQPFrame {
    AMQPFrame::Method(
        1,
        AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
            queue: "orders".into(),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: true,
            nowait: false,
            arguments,
        })),
    )
}

/// A table within a table, so many of them.
fn nested(depth: usize) -> FieldTable {
    let mut table = FieldTable::default();
    for _ in 1..depth {
        let mut outer = BTreeMap::new();
        outer.insert("in".into(), AMQPValue::FieldTable(table));
        table = FieldTable::from(outer);
    }
    table
}

fn short_string() -> impl Strategy<Value = ShortString> {
    "[a-zA-Z0-9._äß-]{0,40}".prop_map(ShortString::from)
}

fn value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<i16>().prop_map(AMQPValue::ShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        "[ -~]{0,60}".prop_map(|text| AMQPValue::LongString(text.into())),
        prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5)
                .prop_map(|values| AMQPValue::FieldArray(FieldArray::from(values))),
            prop::collection::btree_map(short_string(), inner, 0..5)
                .prop_map(|entries| AMQPValue::FieldTable(FieldTable::from(entries))),
        ]
    })
}

fn table() -> impl Strategy<Value = FieldTable> {
    prop::collection::btree_map(short_string(), value(), 0..6).prop_map(FieldTable::from)
}

fn properties() -> impl Strategy<Value = BasicProperties> {
    let (texts, headers) = (short_string(), table());
    (texts, headers, any::<(u8, u64, [bool; 5])>()).prop_map(
        |(text, headers, (octet, time, has))| {
            let mut properties = BasicProperties::default();
            if has[0] {
                properties = properties.with_content_type(text.clone());
            }
            if has[1] {
                properties = properties.with_content_encoding(text.clone());
            }
            if has[2] {
                properties = properties.with_headers(headers);
            }
            if has[3] {
                properties = properties.with_priority(octet).with_timestamp(time);
            }
            if has[4] {
                properties = properties.with_message_id(text);
            }
            properties
        },
    )
}

fn publish() -> impl Strategy<Value = AMQPClass> {
    (short_string(), short_string(), any::<(bool, bool)>()).prop_map(
        |(exchange, routing_key, (mandatory, immediate))| {
            AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
                exchange,
                routing_key,
                mandatory,
                immediate,
            }))
        },
    )
}

fn ack() -> impl Strategy<Value = AMQPClass> {
    any::<(u64, bool)>().prop_map(|(delivery_tag, multiple)| {
        AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack {
            delivery_tag,
            multiple,
        }))
    })
}

fn any_frame() -> impl Strategy<Value = AMQPFrame> {
    let close = (any::<u16>(), short_string()).prop_map(|(reply_code, reply_text)| {
        AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
            reply_code,
            reply_text,
            class_id: 60,
            method_id: 40,
        }))
    });
    let start_ok = (table(), short_string()).prop_map(|(client_properties, locale)| {
        AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties,
            mechanism: "PLAIN".into(),
            response: "\0app\0secret".into(),
            locale,
        }))
    });
    let header =
        (any::<u64>(), properties()).prop_map(|(body_size, properties)| AMQPContentHeader {
            class_id: 60,
            body_size,
            properties,
        });
    prop_oneof![
        (any::<u16>(), publish()).prop_map(|(channel, class)| AMQPFrame::Method(channel, class)),
        (any::<u16>(), ack()).prop_map(|(channel, class)| AMQPFrame::Method(channel, class)),
        (any::<u16>(), close).prop_map(|(channel, class)| AMQPFrame::Method(channel, class)),
        start_ok.prop_map(|class| AMQPFrame::Method(0, class)),
        table().prop_map(declare),
        (any::<u16>(), header).prop_map(|(channel, header)| AMQPFrame::Header(channel, header)),
        (any::<u16>(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(channel, body)| AMQPFrame::Body(channel, body)),
        Just(AMQPFrame::Heartbeat),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let body = prop::collection::vec(any::<u8>(), 0..20_000);
    (short_string(), short_string(), properties(), body).prop_map(
        |(exchange, routing_key, properties, body)| Message {
            exchange,
            routing_key,
            properties,
            body: Bytes::from(body),
        },
    )
}

fn content_method() -> impl Strategy<Value = ContentMethod> {
    let deliver = (short_string(), any::<(u64, bool)>()).prop_map(
        |(consumer_tag, (delivery_tag, redelivered))| ContentMethod::Deliver {
            consumer_tag: Arc::from(consumer_tag.as_str()),
            delivery_tag,
            redelivered,
        },
    );
    let get_ok =
        any::<(u64, bool, u32)>().prop_map(|(delivery_tag, redelivered, message_count)| {
            ContentMethod::GetOk {
                delivery_tag,
                redelivered,
                message_count,
            }
        });
    prop_oneof![
        deliver,
        get_ok,
        Just(ContentMethod::Return {
            code: 312,
            text: "NO_ROUTE",
        }),
    ]
}

proptest! {
    #[test]
    fn frames_are_read_as_they_were_written_however_they_are_split(
        frames in prop::collection::vec(any_frame(), 1..12),
        pieces in prop::collection::vec(1usize..200, 1..40),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(written).collect();
        let mut decoder = begun();
        let mut buffer = BytesMut::new();
        let mut read = Vec::new();
        let mut rest = &bytes[..];
        for piece in pieces.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(*piece));
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.next(&mut buffer).unwrap() {
                read.push(frame);
            }
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(read, frames.iter().map(expected).collect::<Vec<_>>());
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_stand_still(
        bytes in prop::collection::vec(any::<u8>(), 0..2_000),
        frames in prop::collection::vec(any_frame(), 0..4),
        at in any::<prop::sample::Index>(),
        octet in any::<u8>(),
    ) {
        let mut damaged: Vec<u8> = frames.iter().flat_map(written).collect();
        if !damaged.is_empty() {
            let at = at.index(damaged.len());
            damaged[at] = octet;
        }
        for bytes in [bytes, damaged] {
            let mut decoder = begun();
            let mut buffer = BytesMut::from(&bytes[..]);
            loop {
                let before = buffer.len();
                match decoder.next(&mut buffer) {
                    Ok(None) => break,
                    Ok(Some(_)) | Err(_) => prop_assert!(buffer.len() < before),
                }
            }
        }
    }

    #[test]
    fn a_message_goes_out_as_the_general_encoder_writes_it_in_frames_below_the_maximum(
        method in content_method(),
        message in message(),
        frame_max in 4_096u32..9_000,
        enough in 1usize..30_000,
    ) {
        let message = Arc::new(message);
        let class = method.class(&message);
        let mut encoder = Encoder::default();
        encoder.load(vec![Output::Content { channel: 7, method, message: Arc::clone(&message) }]);
        let mut bytes = Vec::new();
        while !encoder.is_empty() {
            let mut part = Vec::new();
            encoder.fill(&mut part, enough, frame_max);
            bytes.extend(part);
        }

        let header = AMQPContentHeader {
            class_id: 60,
            body_size: message.body.len() as u64,
            properties: message.properties.clone(),
        };
        let mut wanted = written(&AMQPFrame::Method(7, class));
        wanted.extend(written(&AMQPFrame::Header(7, header)));
        for body in message.body.chunks(frame_max as usize - 8) {
            wanted.extend(written(&AMQPFrame::Body(7, body.to_vec())));
        }
        prop_assert_eq!(bytes, wanted);
    }

    #[test]
    fn a_frame_goes_out_as_the_general_encoder_writes_it(frame in any_frame()) {
        let mut encoder = Encoder::default();
        encoder.load(vec![Output::frame(frame.clone())]);
        let mut bytes = Vec::new();
        encoder.fill(&mut bytes, 1, 131_072);
        prop_assert_eq!(bytes, written(&frame));
    }
}

#[test]
fn a_frame_split_at_any_byte_is_read_once_it_is_whole() {
    let frame = declare(nested(5));
    let bytes = written(&frame);
    for split in 0..bytes.len() {
        let mut decoder = begun();
        let mut buffer = BytesMut::from(&bytes[..split]);
        assert_eq!(decoder.next(&mut buffer), Ok(None), "{split}");
        buffer.extend_from_slice(&bytes[split..]);
        assert_eq!(decoder.next(&mut buffer), Ok(Some(expected(&frame))));
        assert!(buffer.is_empty());
    }
}

#[test]
fn another_protocol_is_known_by_its_first_wrong_byte() {
    for (bytes, wrong) in [
        (&b"A"[..], false),
        (b"AMQP\0\0\x09", false),
        (b"G", true),
        (b"AMQP\x01", true),
        (b"AMQP\0\0\x09\0", true),
    ] {
        let read = Decoder::new().next(&mut BytesMut::from(bytes));
        let wanted = if wrong {
            Err(Malformed::ProtocolHeader)
        } else {
            Ok(None)
        };
        assert_eq!(read, wanted, "{bytes:?}");
    }
}

#[test]
fn a_frame_is_too_large_by_its_head_alone_until_more_is_agreed_on() {
    let head = [BODY, 0, 1, 0, 0, 0x10, 0x01];
    let mut decoder = begun();
    decoder.agree(4_096);
    let mut buffer = BytesMut::from(&head[..]);
    let too_large = Malformed::TooLarge {
        frame: BODY,
        channel: 1,
        payload: 4_097,
        max: 4_088,
    };
    assert_eq!(decoder.next(&mut buffer), Err(too_large));

    let mut decoder = begun();
    decoder.agree(8_192);
    assert_eq!(decoder.next(&mut BytesMut::from(&head[..])), Ok(None));
}

#[test]
fn before_anything_is_agreed_on_a_frame_has_4096_bytes_at_most() {
    let mut decoder = Decoder::new();
    let mut buffer = BytesMut::from(&PROTOCOL_HEADER[..]);
    decoder.next(&mut buffer).unwrap();
    buffer.extend_from_slice(&[METHOD, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert!(matches!(
        decoder.next(&mut buffer),
        Err(Malformed::TooLarge {
            payload: u32::MAX,
            ..
        })
    ));
}

#[test]
fn behind_a_frame_that_is_too_large_the_next_one_is_found() {
    let mut decoder = begun();
    decoder.agree(4_096);
    let mut buffer = BytesMut::from(&frame(BODY, 1, &[FRAME_END; 10_000])[..]);
    assert!(decoder.next(&mut buffer).is_err());
    buffer.extend_from_slice(&written(&AMQPFrame::Heartbeat));
    assert_eq!(decoder.next(&mut buffer), Ok(Some(Frame::Heartbeat)));
}

#[test]
fn a_wrong_frame_end_costs_its_frame_only() {
    let mut bytes = frame(BODY, 3, b"body");
    *bytes.last_mut().unwrap() = 7;
    bytes.extend(written(&AMQPFrame::Heartbeat));
    let mut buffer = BytesMut::from(&bytes[..]);
    let mut decoder = begun();
    let flaw = Malformed::FrameEnd {
        frame: BODY,
        channel: 3,
        octet: 7,
    };
    assert_eq!(decoder.next(&mut buffer), Err(flaw));
    assert_eq!(decoder.next(&mut buffer), Ok(Some(Frame::Heartbeat)));
}

#[test]
fn tables_are_nested_32_deep_and_no_deeper() {
    let deep = written(&declare(nested(32)));
    assert!(matches!(decode_one(&deep), Ok(Some(Frame::Method(..)))));
    let deeper = written(&declare(nested(33)));
    assert_eq!(decode_one(&deeper), Err(Malformed::TooDeep { channel: 1 }));
}

#[test]
fn arrays_nested_by_the_thousand_do_not_reach_the_recursive_parser() {
    // Each array is five bytes of the next outer one; twenty thousand of them fit a frame.
    let mut array = Vec::new();
    for _ in 0..20_000 {
        let mut outer = vec![b'A'];
        outer.extend(u32::try_from(array.len()).unwrap().to_be_bytes());
        outer.extend(&array);
        array = outer;
    }
    let mut headers = vec![1, b'a'];
    headers.extend(array);
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0];
    payload.extend(u32::try_from(headers.len()).unwrap().to_be_bytes());
    payload.extend(headers);
    let flaw = decode_one(&frame(HEADER, 1, &payload));
    assert_eq!(flaw, Err(Malformed::TooDeep { channel: 1 }));
}

#[test]
fn an_array_of_a_hundred_thousand_voids_is_refused_before_it_takes_32_bytes_for_each() {
    let array = FieldArray::from(vec![AMQPValue::Void; 100_000]);
    let mut table = FieldTable::default();
    table.insert("void".into(), AMQPValue::FieldArray(array));
    let flaw = decode_one(&written(&declare(table)));
    assert_eq!(flaw, Err(Malformed::TooDeep { channel: 1 }));
}

#[test]
fn a_table_that_claims_more_than_its_frame_is_a_syntax_error() {
    let mut bytes = written(&declare(nested(2)));
    let table = bytes.windows(3).position(|at| at == b"\x02in").unwrap();
    bytes[table - 1] += 1;
    let syntax = Malformed::Syntax {
        frame: METHOD,
        channel: 1,
    };
    assert_eq!(decode_one(&bytes), Err(syntax));
}

#[test]
fn what_no_peer_may_send_is_told_apart() {
    assert_eq!(
        decode_one(&frame(9, 2, b"")),
        Err(Malformed::UnknownType {
            frame: 9,
            channel: 2
        })
    );
    assert_eq!(
        decode_one(&frame(HEARTBEAT, 2, b"")),
        Err(Malformed::Heartbeat { channel: 2 })
    );
    assert_eq!(
        decode_one(&frame(METHOD, 2, &[0, 60, 0, 99])),
        Err(Malformed::UnknownMethod {
            channel: 2,
            class: 60,
            method: 99
        })
    );
    assert_eq!(
        decode_one(&frame(METHOD, 2, b"\0\x3c\0\x0a\0\0\x01\x02\0\x05\0")),
        Err(Malformed::PrefetchSize {
            channel: 2,
            size: 258
        })
    );
    assert_eq!(
        decode_one(&frame(METHOD, 2, &[0, 60])),
        Err(Malformed::Syntax {
            frame: METHOD,
            channel: 2
        })
    );
}

#[test]
fn a_prefetch_by_count_is_read() {
    let qos = basic::AMQPMethod::Qos(basic::Qos {
        prefetch_count: 5,
        global: true,
    });
    let frame = AMQPFrame::Method(2, AMQPClass::Basic(qos));
    assert_eq!(decode_one(&written(&frame)), Ok(Some(expected(&frame))));
}

#[test]
fn a_small_body_does_not_keep_the_read_buffer_and_a_large_one_is_not_copied() {
    let mut decoder = begun();
    let mut buffer = BytesMut::from(&frame(BODY, 1, &[1; 100])[..]);
    let place = buffer.as_ptr();
    let Ok(Some(Frame::Body(_, small))) = decoder.next(&mut buffer) else {
        panic!("a body frame");
    };
    assert_ne!(small.as_ptr(), place.wrapping_add(FRAME_HEADER));

    let mut buffer = BytesMut::from(&frame(BODY, 1, &[1; 40_000])[..]);
    let place = buffer.as_ptr();
    let Ok(Some(Frame::Body(_, large))) = decoder.next(&mut buffer) else {
        panic!("a body frame");
    };
    assert_eq!(large.as_ptr(), place.wrapping_add(FRAME_HEADER));
}

#[test]
fn nothing_goes_out_behind_a_close() {
    let mut encoder = Encoder::default();
    encoder.load(vec![
        Output::frame(AMQPFrame::Heartbeat),
        Output::Close,
        Output::frame(AMQPFrame::Heartbeat),
    ]);
    let mut bytes = Vec::new();
    encoder.fill(&mut bytes, 100, 4_096);
    assert_eq!(bytes, written(&AMQPFrame::Heartbeat));
    assert!(encoder.is_closing());
}
