//! The id of a topic, which tells a topic from another that was created later under its name.
//!
//! librdkafka has it (DescribeTopics), the safe wrapper hasn't, so this module calls librdkafka itself. Everything that librdkafka
//! allocates is owned by a guard that destroys it; pointers into an event are read only while its guard lives.

#![allow(
    unsafe_code,
    reason = "the wrapper has no DescribeTopics; all calls into librdkafka's C API are in this module"
)]

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as ffi;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

/// Destroys what librdkafka has allocated.
struct Owned<T> {
    pointer: ptr::NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        ptr::NonNull::new(pointer).map(|pointer| Self { pointer, destroy })
    }

    fn as_ptr(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the allocator that belongs to `destroy`, and nobody else owns it.
        unsafe { (self.destroy)(self.pointer.as_ptr()) }
    }
}

/// The id of `topic` as librdkafka writes it (base64, 22 characters); `None` where the brokers know of none.
///
/// `broker` is asked, any can tell: without a name librdkafka waits for the controller, which the mock cluster hasn't.
/// A question that fails is an error, never `None`: without the id a topic that was created anew goes unnoticed.
pub(super) fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    broker: i32,
    timeout: Duration,
) -> KafkaResult<Option<String>> {
    let failed = |code: RDKafkaErrorCode| Err(KafkaError::AdminOp(code));
    let Ok(name) = CString::new(topic) else { return failed(RDKafkaErrorCode::InvalidTopic) };
    let Some(event) = describe(client, &name, broker, timeout) else {
        return failed(RDKafkaErrorCode::OperationTimedOut);
    };
    // SAFETY: `event` is a live event; the result and all that hangs on it belong to the event, which outlives this block.
    // librdkafka returns null where there is nothing, which is checked at each step.
    unsafe {
        let code = ffi::rd_kafka_event_error(event.as_ptr());
        // Brokers without this question know of no ids.
        if code == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE {
            return Ok(None);
        }
        if code != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return failed(code.into());
        }
        let result = ffi::rd_kafka_event_DescribeTopics_result(event.as_ptr());
        if result.is_null() {
            return failed(RDKafkaErrorCode::Fail);
        }
        let mut count = 0;
        let topics = ffi::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count != 1 {
            return failed(RDKafkaErrorCode::Fail);
        }
        let description = *topics;
        let error = ffi::rd_kafka_TopicDescription_error(description);
        let code = ffi::rd_kafka_error_code(error);
        if code != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return failed(code.into());
        }
        let id = ffi::rd_kafka_TopicDescription_topic_id(description);
        if id.is_null() {
            return Ok(None);
        }
        let text = ffi::rd_kafka_Uuid_base64str(id);
        if text.is_null() {
            return Ok(None);
        }
        let text = CStr::from_ptr(text).to_string_lossy().into_owned();
        // The zero id stands for brokers that know of none.
        Ok((!text.starts_with("AAAAAAAAAAAAAAAAAAAAAA")).then_some(text))
    }
}

/// Asks for the topic's description and waits for the answer.
fn describe<C: ClientContext>(
    client: &Client<C>,
    name: &CStr,
    broker: i32,
    timeout: Duration,
) -> Option<Owned<ffi::rd_kafka_event_t>> {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let native = client.native_ptr();
    let mut names: [*const c_char; 1] = [name.as_ptr()];
    // SAFETY: `native` lives as long as `client`. librdkafka copies the topic's name and the options, so that the guards may
    // destroy theirs after the call. The queue outlives the wait for the event.
    unsafe {
        let queue = Owned::new(ffi::rd_kafka_queue_new(native), ffi::rd_kafka_queue_destroy)?;
        let topics = Owned::new(
            ffi::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()),
            ffi::rd_kafka_TopicCollection_destroy,
        )?;
        let options = Owned::new(
            ffi::rd_kafka_AdminOptions_new(native, ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            ffi::rd_kafka_AdminOptions_destroy,
        )?;
        let mut text = [0; 128];
        ffi::rd_kafka_AdminOptions_set_request_timeout(options.as_ptr(), timeout_ms, text.as_mut_ptr(), text.len());
        ffi::rd_kafka_AdminOptions_set_broker(options.as_ptr(), broker, text.as_mut_ptr(), text.len());
        ffi::rd_kafka_DescribeTopics(native, topics.as_ptr(), options.as_ptr(), queue.as_ptr());
        // The request ends by itself after `timeout`, so a little more is enough.
        let event = ffi::rd_kafka_queue_poll(queue.as_ptr(), timeout_ms.saturating_add(500));
        Owned::new(event, ffi::rd_kafka_event_destroy)
    }
}
