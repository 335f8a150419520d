//! What the tests and benchmarks of the whole share: processes, databases, a raw HTTP client.

pub mod amqp_proxy;
pub mod browser;
pub mod calls;
pub mod collector;
pub mod connection;
pub mod database;
pub mod fake_stripe;
pub mod history;
pub mod ingress;
pub mod judge;
pub mod limited;
pub mod process;
pub mod provider;
pub mod proxy;
pub mod rabbitmq;
pub mod redis;
pub mod report;
pub mod sim;
pub mod stopped;
pub mod traffic;
