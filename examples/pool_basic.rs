//! The smallest pool there is: a manager that makes something, and a few uses of it.
//!
//! ```sh
//! cargo run --example pool_basic
//! ```

use std::{convert::Infallible, error::Error};

use wharf::{Manager, Pool};

/// Makes buffers. A real manager connects to something; see `pool_tcp`.
struct Buffers;

impl Manager for Buffers {
    type Resource = Vec<u8>;
    type Error = Infallible;

    async fn create(&self) -> Result<Vec<u8>, Infallible> {
        Ok(Vec::with_capacity(64 * 1024))
    }

    fn reset(&self, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        true
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::builder(Buffers).max_active(2).build()?;

    for text in ["made for the first lease", "reused by the second"] {
        let mut buffer = pool.get().await?;
        buffer.extend_from_slice(text.as_bytes());
        println!("{text}: {} bytes", buffer.len());
        // Here the lease is dropped, and the buffer is back in the pool.
    }

    pool.close().await;
    println!("{} created in all", pool.status().totals.created);
    Ok(())
}
